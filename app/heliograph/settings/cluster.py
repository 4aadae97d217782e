"""Redis, and how replicas work together."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from heliograph.redis_url import check_durable_url, check_redis_url, read_shards
from heliograph.settings.group import Group
from heliograph.shared_settings import (
    DEFAULT_PREFIX,
    EMIT_SHARDS,
    MOST_ACK_REPLICAS,
    AckMode,
    bus_channel_name,
)


class RedisSettings(Group):
    """Without a URL one replica runs on its own, in memory."""

    url: str | None = Field(
        default=None,
        description="redis://host:6379/0, or rediss:// (TLS), unix:// (a socket), redis+sentinel://, redis+cluster://",
    )
    shards: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="several of these, instead of URL, over which users and channels are spread: a JSON list, or "
        "comma-separated; all programs of a cluster need the same, in the same order",
    )
    durable_url: str | None = Field(
        default=None, description="a second Redis for kept messages (with appendonly); unset: the same one"
    )
    ack: AckMode = Field(
        default="memory",
        description="when a kept message counts as acknowledged: Redis has it in memory; on disk; on replicas; or "
        "managed, where the service is durable",
    )
    ack_replicas: int = Field(
        default=1,
        ge=1,
        le=MOST_ACK_REPLICAS,
        description="how many replicas of Redis must have it, in mode `replica`: all that may be promoted",
    )
    max_connections: int = Field(default=50, ge=1, description="connections for commands; the bus has its own")
    prefix: str = Field(default=DEFAULT_PREFIX, description="the prefix of all keys")
    emit_shards: int = Field(
        default=EMIT_SHARDS,
        ge=1,
        le=1024,
        description="streams for emissions of clients; workers must use the same number",
    )
    emit_maxlen: int = Field(
        default=100_000, ge=1, description="entries in each of these streams, at most; more are refused"
    )

    @field_validator("url", "durable_url")
    @classmethod
    def _readable(cls, url: str | None) -> str | None:
        return None if url is None else check_redis_url(url)

    @field_validator("shards", mode="before")
    @classmethod
    def _readable_shards(cls, shards: str | tuple[str, ...]) -> tuple[str, ...]:
        return read_shards(shards)

    @property
    def urls(self) -> tuple[str, ...]:
        """The address of each shard, in order; one without shards, none without Redis."""
        return self.shards or (() if self.url is None else (self.url,))

    @model_validator(mode="after")
    def _live_too(self) -> Self:
        check_durable_url(self.url, self.durable_url)
        if self.shards and self.url is not None:
            raise ValueError("SHARDS and URL cannot both be set: SHARDS names every Redis of the cluster")
        if self.shards and self.durable_url is not None:
            raise ValueError("DURABLE_URL does not go with SHARDS: let each shard keep what it holds (appendonly)")
        if self.durable_url is not None and self.url is None:
            raise ValueError("DURABLE_URL needs URL too: one Redis keeps messages, the other has the bus")
        return self


class BusSettings(Group):
    channel: str | None = Field(
        default=None,
        min_length=1,
        description="the Redis channel that all replicas listen on; unset: `events`, or a name with prefix and "
        "database where these are not the defaults",
    )
    routing: Literal["shared", "directed"] = Field(
        default="shared",
        description="directed: a user's messages go only to the replicas that hold the user, not to all",
    )
    canary_interval_s: float = Field(default=1.0, gt=0, description="how often a replica sends itself a token")
    canary_timeout_s: float = Field(default=3.0, gt=0, description="unready when none has come back for this long")


def bus_channel(bus: BusSettings, redis: RedisSettings, url: str | None = None) -> str:
    """Return the Redis channel that all replicas of a cluster with these settings listen on.

    `url`: of the shard; by default that of the only Redis.
    """
    return bus_channel_name(bus.channel, url or redis.url, redis.prefix)


class DirectorySettings(Group):
    lease_ttl_s: float = Field(default=2.0, gt=0, description="how long a replica's lease lasts without a renewal")
    renew_interval_s: float = Field(default=0.5, gt=0, description="how often a replica renews its lease")
    reap_grace_s: float = Field(default=1.0, ge=0, description="how long after its expiry a lease is reaped")


class ChannelSettings(Group):
    heartbeat_s: float = Field(
        default=1.0, gt=0, description="how often to look for lost messages at the end of a log"
    )
    linger_s: float = Field(default=5.0, ge=0, description="how long to follow a channel that nobody listens to")
    page: int = Field(default=500, ge=1, description="publications in one read from the log")
    page_bytes: int = Field(
        default=131_072, ge=1024, description="bytes in one read from a channel's log, or one publication"
    )


class ReceiptSettings(Group):
    ttl_s: float = Field(
        default=604_800, gt=0, description="how long a user's receipts are kept after the last of them"
    )


class PresenceSettings(Group):
    grace_s: float = Field(
        default=2.0, ge=0, description="a user who is back on a channel within this time never left it"
    )

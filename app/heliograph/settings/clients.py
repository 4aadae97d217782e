"""What clients get, and how much of it."""

from pydantic import Field

from heliograph.settings.group import Group
from heliograph.shared_settings import DEPTH


class PollSettings(Group):
    linger_s: float = Field(
        default=5.0, ge=0, description="a client that polls again within this time stays connected"
    )
    answer_bytes: int = Field(
        default=262_144, ge=1024, description="bytes of events in one answer; the next has the rest"
    )


class EmitSettings(Group):
    events: tuple[str, ...] = Field(
        default=(),
        description="events that clients may emit to workers, as a JSON list; 'order*' is a prefix",
    )
    shard_bytes: int = Field(
        default=33_554_432, ge=65_536, description="bytes of memory of each stream, at most; more is refused"
    )
    ttl_s: float = Field(default=604_800, gt=0, description="how long an entry is kept, handled or not")


class LimitSettings(Group):
    frame_bytes: int = Field(
        default=65_536, ge=1024, description="the largest frame of a client; a larger one closes with 1009"
    )
    depth: int = Field(default=DEPTH, ge=1, le=128, description="how deep arrays and objects may nest in data")
    outbox_bytes: int = Field(
        default=1_048_576, ge=65_536, description="bytes that may wait for a client; more closes with 3008"
    )
    messages_per_second: float = Field(
        default=100, ge=0, description="operations that one connection may send (0: no limit)"
    )
    # The maximum fits into the number that counts them in Redis (`backends/redis/lua/_budget.lua`).
    user_messages_per_second: float = Field(
        default=200,
        ge=0,
        le=100_000,
        description="messages that all clients of one user may write, over 10 s (0: no limit)",
    )
    user_bytes_per_second: float = Field(
        default=131_072,
        ge=0,
        le=100_000_000,
        description="bytes that all clients of one user may write, over 10 s (0: no limit)",
    )
    recipient_messages_per_second: float = Field(
        default=50, ge=0, description="messages that one user may send to any one user, over 10 s (0: no limit)"
    )
    client_memory_percent: float = Field(
        default=80,
        ge=0,
        le=100,
        description="used part of Redis' maxmemory beyond which nothing that clients write is kept (0: no limit)",
    )
    read_bytes_per_second: float = Field(
        default=1_048_576,
        ge=0,
        description="bytes of history and presence that one connection may read; then its frames wait (0: no limit)",
    )
    requests_per_second: float = Field(
        default=50,
        ge=0,
        description="HTTP requests of one user on one replica, in bursts of five times that (0: no limit)",
    )
    requests_per_second_per_address: float = Field(
        default=500,
        ge=0,
        description="HTTP requests of one address on one replica, in such bursts (0: no limit); nginx has its own",
    )
    refusals: int = Field(
        default=1000, ge=1, description="refused operations in a row that get an error; more close with 3509"
    )
    connections: int = Field(default=20_000, ge=1, description="connections of one replica, at most")
    connections_per_user: int = Field(
        default=20, ge=0, description="connections of one user over all replicas (0: no limit)"
    )
    connections_per_address: int = Field(
        default=0,
        ge=0,
        description="connections of one address on one replica (0: no limit); nginx has its own limit",
    )
    failed_attempts_per_minute: float = Field(
        default=60,
        ge=0,
        description="bad tokens, keys, first frames of an address answered at once; others late (0: no limit)",
    )
    newcomers_per_address: int = Field(
        default=256,
        ge=0,
        description="sockets of one address that have not identified themselves; the oldest makes room (0: no limit)",
    )
    channels_per_connection: int = Field(
        default=100, ge=1, description="channels that one connection may subscribe to"
    )
    connect_timeout_s: float = Field(
        default=5.0, gt=0, description="how long a client may take to send its first frame"
    )
    header_bytes: int = Field(
        default=131_072, ge=4096, description="bytes of a request's URL and headers; more is answered with 431"
    )
    header_timeout_s: float = Field(default=10.0, gt=0, description="how long a request's headers may take to arrive")
    body_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="how long a request's body may take to arrive, and a client may read nothing of its answer",
    )


class CompressionSettings(Group):
    """permessage-deflate, for WebSocket clients that offer it."""

    enabled: bool = Field(
        default=False, description="compress messages to WebSocket clients that offer permessage-deflate"
    )
    min_bytes: int = Field(default=512, ge=1, description="messages smaller than this are not compressed")


class PingSettings(Group):
    interval_s: int = Field(
        default=25, ge=1, le=60, description="how often the server pings each socket; nginx waits 75 s for a ping"
    )
    timeout_s: int = Field(
        default=10, ge=1, description="how long a pong may take; then the socket is closed with 3012"
    )

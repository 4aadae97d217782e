"""Send a publisher's drafts to Redis, with the cluster's own scripts. One attempt a call; no retries here."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from heliograph.backends.redis.acknowledgement import IN_MEMORY, Acknowledgement, Unconfirmed
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import Layout, layouts_among
from heliograph.backends.redis.link_errors import NotSent
from heliograph.backends.redis.opening import open_server
from heliograph.backends.redis.run_leases import decoded, expired_call, lease_call, lost_calls
from heliograph.backends.redis.server import RedisServer
from heliograph.backends.redis.sync import SyncScripts, connect_sync
from heliograph.client.drafts import Drafting, Published, published
from heliograph.client.environment import ClusterSettings
from heliograph.client.forks import leave_alone
from heliograph.client.retrying import Failure
from heliograph.errors import BadSetting
from heliograph.ports import Draft
from heliograph.redis_url import read_cluster_address

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 10
FAILURES: Final = (RedisError, OSError)  # all that redis-py and the network raise

# Errors that pass by themselves: the network, a restart, a fail-over. After any other, a retry fails the same way.
_PASSING = (
    ConnectionError,  # LOADING too
    TimeoutError,
    NoScriptError,
    ReadOnlyError,
    ClusterDownError,  # MASTERDOWN too
    TryAgainError,
    Unconfirmed,
    OSError,
)
_PASSING_REPLIES = ("NOREPLICAS ", "BUSY ")  # redis-py has no classes for these
_REFUSED = (AuthenticationError, AuthorizationError)  # subclasses of ConnectionError in redis-py


@dataclass(frozen=True, slots=True)
class Target:
    """The Redis of one shard. `durable_url`: of a second server, for what is kept; None: it is the same one.

    `ack`: when something counts as kept, on the server that keeps it.
    """

    url: str
    durable_url: str | None
    keys: Keys
    layout: Layout
    directed: bool
    ack: Acknowledgement


def targets(settings: ClusterSettings) -> list[Target]:
    """Return the Redis of each shard, in order.

    Raises:
        BadSetting: it is a cluster.
    """
    if any(read_cluster_address(url) is not None for url in settings.urls):
        raise BadSetting(
            "programs beside the replicas cannot use redis+cluster:// themselves; a publisher takes the cluster's"
            " https:// URL and an API key"
        )
    directed, ack = settings.routing == "directed", Acknowledgement(settings.ack, settings.ack_replicas)
    return [
        Target(url, settings.durable_url, Keys(settings.prefix, channel), layout, directed, ack)
        for url, channel, layout in zip(
            settings.urls, settings.bus_channels, layouts_among(len(settings.urls)), strict=True
        )
    ]


class RedisFailures:
    """What the errors of Redis mean for a publisher."""

    server = "Redis"
    failures: tuple[type[Exception], ...] = FAILURES

    @staticmethod
    def failure(error: Exception) -> Failure:
        """Return what one of the `failures` means."""
        passes = _passes(error)
        may_be_done = passes and not _was_not_carried_out(error)
        return Failure(str(error) or type(error).__name__, passes, may_be_done)


class _Base(RedisFailures):
    def __init__(self, target: Target, drafting: Drafting) -> None:
        self._target = target
        self._durable_url = target.durable_url
        self._script = "append" if self._durable_url is None else "store"
        self._drafting = drafting.into(target.keys)


class RedisTransport(_Base):
    """For plain functions, in any number of threads."""

    def __init__(self, target: Target, drafting: Drafting) -> None:
        super().__init__(target, drafting)
        self._connect()

    def _connect(self) -> None:
        target = self._target
        self._live = connect_sync(target.url, max_connections=MAX_CONNECTIONS)
        self._redis = self._live  # keeps what is kept
        if self._durable_url is not None:
            self._redis = connect_sync(self._durable_url, max_connections=MAX_CONNECTIONS)
        self._scripts = SyncScripts(
            self._redis, target.keys, layout=target.layout, directed=target.directed, ack=target.ack
        )
        self._live_scripts = self._scripts  # of the server with the bus
        if self._durable_url is not None:
            self._live_scripts = SyncScripts(self._live, target.keys, layout=target.layout)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        self._connect()

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._redis.close()
        self._live.close()

    def check_layout(self) -> None:
        """See `SyncScripts.check_layout`."""
        self._live_scripts.check_layout()

    def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        """Publish them in order and in one round trip; `kept`: what their namespaces say."""
        if not kept:
            self._live_scripts.check_layout()
            for draft in drafts:
                self._live.publish(*self._drafting.passing(draft))
            return [published(draft, None) for draft in drafts]
        answers = self._scripts.run_many(self._script, [self._drafting.call(draft) for draft in drafts])
        if self._durable_url is not None:
            self._announce(self._drafting.announcements(drafts, answers))
        return [published(draft, answer) for draft, answer in zip(drafts, answers, strict=True)]

    def _announce(self, announcements: list[tuple[str, bytes]]) -> None:
        """Tell the replicas what the durable server has kept; otherwise they find it with their next heartbeat."""
        try:
            with self._live.pipeline(transaction=False) as pipeline:
                for bus_channel, envelope in announcements:
                    pipeline.publish(bus_channel, envelope)
                pipeline.execute()
        except FAILURES as error:
            logger.warning("kept, but not published live; replicas find it with a heartbeat: %s", error)

    # -- runs that may lose their worker

    def lease_runs(self, run_ids: Sequence[str], ttl_s: float) -> None:
        self._scripts.run_many("run_lease", [lease_call(self._drafting.keys, run_ids, ttl_s)])

    def release_run(self, run_id: str) -> None:
        self._redis.zrem(self._drafting.keys.run_leases, run_id)

    def reap_lost_runs(self) -> int:
        drafting = self._drafting
        [expired] = self._scripts.run_many("run_expired", [expired_call(drafting.keys)])
        if not expired:
            return 0
        calls = lost_calls(drafting.keys, drafting.namespaces, decoded(expired), drafting.clock)
        return sum(bool(answer) for answer in self._scripts.run_many("run_lost", calls))


class AsyncRedisTransport(_Base):
    """For coroutines of one event loop. Like `RedisTransport`, without the leases of runs."""

    def __init__(self, target: Target, drafting: Drafting) -> None:
        super().__init__(target, drafting)
        self._connect()

    def _connect(self) -> None:
        target = self._target
        if self._durable_url is None:
            self._live = self._kept = self._server(target.url, target.ack)
        else:
            self._live = self._server(target.url, IN_MEMORY)
            self._kept = self._server(self._durable_url, target.ack)
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)  # an empty pool would raise; callers wait here instead

    def _server(self, url: str, ack: Acknowledgement) -> RedisServer:
        target = self._target
        return open_server(
            url,
            target.keys,
            layouts=iter([target.layout]),
            max_connections=MAX_CONNECTIONS,
            directed=target.directed,
            ack=ack,
        )

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone((self._live, self._kept, self._free))
        self._connect()

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self._kept.close()
        await self._live.close()

    async def check_layout(self) -> None:
        """See `Scripts.check_layout`."""
        await self._live.scripts.check_layout()

    async def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        """See `RedisTransport.send`."""
        async with self._free:
            answers = await (self._keep(drafts) if kept else self._pass_on(drafts))
        return [published(draft, answer) for draft, answer in zip(drafts, answers, strict=True)]

    async def _keep(self, drafts: Sequence[Draft]) -> list[Any]:
        answers = await self._kept.keep(self._script, [self._drafting.call(draft) for draft in drafts])
        if self._durable_url is not None:
            await self._announce(self._drafting.announcements(drafts, answers))
        return answers

    async def _announce(self, announcements: list[tuple[str, bytes]]) -> None:
        """See `RedisTransport._announce`."""
        try:
            async with self._live.client.pipeline(transaction=False) as pipeline:
                for bus_channel, envelope in announcements:
                    pipeline.publish(bus_channel, envelope)
                await pipeline.execute()
        except FAILURES as error:
            logger.warning("kept, but not published live; replicas find it with a heartbeat: %s", error)

    async def _pass_on(self, drafts: Sequence[Draft]) -> list[None]:
        await self._live.scripts.check_layout()
        for draft in drafts:
            await self._live.client.publish(*self._drafting.passing(draft))
        return [None] * len(drafts)


def _passes(error: Exception) -> bool:
    if isinstance(error, ResponseError) and str(error).startswith(_PASSING_REPLIES):
        return True
    return isinstance(error, _PASSING) and not isinstance(error, _REFUSED)


def _was_not_carried_out(error: Exception) -> bool:
    """Return whether Redis certainly did not carry the command out: it said so, or there was no connection."""
    if isinstance(error, ResponseError | BusyLoadingError | NotSent):
        return True
    return isinstance(error.__context__, ConnectionRefusedError | socket.gaierror)

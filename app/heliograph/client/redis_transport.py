"""Send a publisher's drafts to Redis, with the cluster's own scripts. One attempt a call; no retries here."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import (
    AskError,
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
from heliograph.backends.redis.bus_verbs import PLAIN, SHARDED
from heliograph.backends.redis.client import Client
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import Layout
from heliograph.backends.redis.link_errors import LinkFull, NotSent, text_of
from heliograph.backends.redis.opening import Clients, layouts_of, server_of, tags_of
from heliograph.backends.redis.run_leases import decoded, expired_call, lease_call, lost_calls
from heliograph.backends.redis.server import RedisServer
from heliograph.backends.redis.sync_opening import SyncClients, sync_scripts
from heliograph.client.drafts import Drafting, Published, published
from heliograph.client.environment import ClusterSettings
from heliograph.client.forks import leave_alone
from heliograph.client.retrying import Failure, PartlyDone, after
from heliograph.ports import Draft

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 10
MOST_UNDER_WAY: Final = 256  # calls of coroutines that wait for Redis; others wait for their turn
FAILURES: Final = (RedisError, OSError)  # all that redis-py and the network raise

# Errors that pass by themselves: the network, a restart, a fail-over. After any other, a retry fails the same way.
_PASSING = (
    ConnectionError,  # LOADING too
    TimeoutError,
    NoScriptError,
    ReadOnlyError,
    ClusterDownError,  # MASTERDOWN too
    TryAgainError,
    AskError,  # MOVED too
    LinkFull,
    Unconfirmed,
    OSError,
)
_PASSING_REPLIES = ("NOREPLICAS ", "BUSY ")  # redis-py has no classes for these
_REFUSED = (AuthenticationError, AuthorizationError)  # subclasses of ConnectionError in redis-py


@dataclass(frozen=True, slots=True)
class Target:
    """The Redis of one shard. `durable_url`: of a second server, for what is kept; None: it is the same one.

    `tag`: of the virtual shard, if the URL is that of a cluster; otherwise empty. `keys`: the names there.
    `ack`: when something counts as kept, on the server that keeps it.
    """

    url: str
    tag: str
    durable_url: str | None
    keys: Keys
    layout: Layout
    directed: bool
    ack: Acknowledgement


def targets(settings: ClusterSettings) -> list[Target]:
    """Return the Redis of each shard, in order; of a cluster, each of its virtual shards.

    Raises:
        BadSetting: a URL cannot be used.
    """
    directed, ack = settings.routing == "directed", Acknowledgement(settings.ack, settings.ack_replicas)
    layouts = iter(layouts_of(settings.urls))
    found: list[Target] = []
    for url, channel in zip(settings.urls, settings.bus_channels, strict=True):
        keys = Keys(settings.prefix, channel)
        found += [
            Target(url, tag, settings.durable_url, keys.in_slot(tag) if tag else keys, next(layouts), directed, ack)
            for tag in tags_of(url)
        ]
    return found


def sync_clients() -> SyncClients:
    """Return what makes a publisher's clients."""
    return SyncClients(max_connections=MAX_CONNECTIONS)


def async_clients() -> Clients:
    """Return what makes a publisher's clients, for one event loop."""
    return Clients(max_connections=MAX_CONNECTIONS)


class RedisFailures:
    """What the errors of Redis mean for a publisher."""

    server = "Redis"
    failures: tuple[type[Exception], ...] = (*FAILURES, PartlyDone)

    @staticmethod
    def failure(error: Exception) -> Failure:
        """Return what one of the `failures` means."""
        is_partly_done = isinstance(error, PartlyDone)
        if isinstance(error, PartlyDone):
            error = error.error
        passes = _passes(error)
        may_be_done = is_partly_done or (passes and not _was_not_carried_out(error))
        return Failure(text_of(error), passes, may_be_done)


class _Base(RedisFailures):
    def __init__(self, target: Target, drafting: Drafting) -> None:
        self._target = target
        self._durable_url = target.durable_url
        self._publish = (SHARDED if target.tag else PLAIN).publish
        self._script = "append" if self._durable_url is None else "store"
        self._drafting = drafting.into(target.keys)


class RedisTransport(_Base):
    """For plain functions, in any number of threads. `clients`: shared with other shards."""

    def __init__(self, target: Target, drafting: Drafting, clients: SyncClients | None = None) -> None:
        super().__init__(target, drafting)
        self._connect(clients or sync_clients())

    def _connect(self, clients: SyncClients) -> None:
        target = self._target
        self._live = clients.open(target.url, target.tag)
        self._redis = self._live  # keeps what is kept
        if self._durable_url is not None:
            self._redis = clients.open(self._durable_url)
        self._scripts = sync_scripts(
            self._redis, target.keys, layout=target.layout, directed=target.directed, ack=target.ack
        )
        self._live_scripts = self._scripts  # of the server with the bus
        if self._durable_url is not None:
            self._live_scripts = sync_scripts(self._live, target.keys, layout=target.layout)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone((self._live, self._redis))
        self._connect(sync_clients())

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
            found: list[Published] = []
            for draft in drafts:
                with after(found, FAILURES):
                    self._live.execute_command(self._publish, *self._drafting.passing(draft))  # type: ignore[no-untyped-call]
                found.append(published(draft, None))
            return found
        answers = _all_kept(self._scripts.answers(self._script, [self._drafting.call(draft) for draft in drafts]))
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

    def __init__(self, target: Target, drafting: Drafting, clients: Clients | None = None) -> None:
        super().__init__(target, drafting)
        self._connect(clients or async_clients())

    def _connect(self, clients: Clients) -> None:
        target = self._target
        if self._durable_url is None:
            self._live = self._kept = self._server(clients.open(target.url, target.tag), target.ack)
        else:
            self._live = self._server(clients.open(target.url), IN_MEMORY)
            self._kept = self._server(clients.open(self._durable_url), target.ack)
        self._under_way = asyncio.Semaphore(MOST_UNDER_WAY)
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)  # an empty pool would raise; callers wait here instead
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the first call

    def _server(self, client: Client, ack: Acknowledgement) -> RedisServer:
        target = self._target
        return server_of(client, target.keys, layout=target.layout, directed=target.directed, ack=ack)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone((self._live, self._kept, self._under_way, self._free))
        self._connect(async_clients())

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self._kept.close()
        await self._live.close()

    async def check_layout(self) -> None:
        """See `Scripts.check_layout`."""
        await self._live.scripts.check_layout()

    async def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        """See `RedisTransport.send`. Raises RuntimeError in another event loop, where no answer would ever arrive."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("an AsyncPublisher belongs to one event loop, that of its first call: make another")
        answers = await (self._keep(drafts) if kept else self._pass_on(drafts))
        return [published(draft, answer) for draft, answer in zip(drafts, answers, strict=True)]

    async def _keep(self, drafts: Sequence[Draft]) -> list[Any]:
        """Keep them. What other coroutines keep in the same event-loop iteration goes out with them."""
        async with self._under_way:
            calls = [self._drafting.call(draft) for draft in drafts]
            answers = _all_kept(await self._kept.kept(self._script, calls))
        if self._durable_url is not None:
            await self._announce(self._drafting.announcements(drafts, answers))
        return answers

    async def _announce(self, announcements: list[tuple[str, bytes]]) -> None:
        """See `RedisTransport._announce`."""
        try:
            async with self._free, self._live.client.pipeline(transaction=False) as pipeline:
                for bus_channel, envelope in announcements:
                    pipeline.publish(bus_channel, envelope)
                await pipeline.execute()
        except FAILURES as error:
            logger.warning("kept, but not published live; replicas find it with a heartbeat: %s", error)

    async def _pass_on(self, drafts: Sequence[Draft]) -> list[None]:
        await self._live.scripts.check_layout()
        found: list[None] = []
        async with self._free:
            for draft in drafts:
                message = self._drafting.passing(draft)
                with after(found, FAILURES):
                    await self._live.client.execute_command(self._publish, *message)  # type: ignore[no-untyped-call]
                found.append(None)
        return found


def _all_kept(answers: list[Any]) -> list[Any]:
    """Return the answers to drafts. Raises the first error among them, as `PartlyDone` if others were kept."""
    error = next((answer for answer in answers if isinstance(answer, Exception)), None)
    if error is None:
        return answers
    if all(isinstance(answer, Exception) for answer in answers):
        raise error
    raise PartlyDone(error) from error


def _passes(error: Exception) -> bool:
    if isinstance(error, ResponseError) and str(error).startswith(_PASSING_REPLIES):
        return True
    return isinstance(error, _PASSING) and not isinstance(error, _REFUSED)


def _was_not_carried_out(error: Exception) -> bool:
    """Return whether Redis certainly did not carry the command out: it said so, or there was no connection."""
    if isinstance(error, ResponseError | BusyLoadingError | NotSent):
        return True
    return isinstance(error.__context__, ConnectionRefusedError | FileNotFoundError | socket.gaierror)

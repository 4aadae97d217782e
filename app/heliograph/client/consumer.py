"""A worker that shares a stream with others: one of them handles each entry, at least once.

async def handle(entry: StreamEntry) -> None:
    await save(entry["user"], entry["event"], entry.json("data"))

await Consumer("redis://localhost:6379/0", "billing", handle).run()  # None: use HELIOGRAPH_REDIS__…
"""

import asyncio
import logging
import os
import random
import secrets
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from heliograph.backends.redis.client import Client, as_bus_unavailable
from heliograph.backends.redis.keys import LIFECYCLE_STREAM, Keys
from heliograph.backends.redis.layout import Layout
from heliograph.backends.redis.link_errors import OtherLayout
from heliograph.backends.redis.opening import Clients
from heliograph.backends.redis.scripts import Scripts
from heliograph.backends.redis.streams import EMIT_STREAM, ShardedStream, StreamEntry
from heliograph.client.drafts import described
from heliograph.client.environment import ClusterSettings, cluster_settings
from heliograph.client.redis_transport import targets
from heliograph.client.spans import ClientSpans, client_spans
from heliograph.clock import SystemClock, iso8601
from heliograph.errors import BadSetting, BusUnavailable
from heliograph.tasks import end

logger = logging.getLogger(__name__)

Handler = Callable[[StreamEntry], Awaitable[object]]

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
MAX_CONNECTIONS = 50  # to one server
ANSWER_S = 2.0  # how long Redis may take to answer, beyond the time that it was asked to wait
REASON_CHARACTERS = 500
SHARDS = 4  # default for a stream that is not the cluster's


@dataclass(slots=True)
class ConsumerStats:
    """Counters since the consumer was created."""

    handled: int = 0  # entries that the handler has returned from
    failed: int = 0  # times that it raised
    claimed: int = 0  # entries taken over from a consumer that was silent or had failed
    dead: int = 0  # entries moved to the dead letters
    trimmed: int = 0  # lost entries: MAXLEN dropped them before a worker acknowledged them
    losses: int = 0  # times that Redis could not be reached


class HandlerCancelled(Exception):
    """The handler's error when a CancelledError came out of it."""


class Consumer:
    """One of a group of workers. An entry is acknowledged once `handler` has returned, and not before.

    **At least once.** A worker that dies at any moment loses nothing: after `claim_idle_s` another worker takes over
    the entries that it did not acknowledge. So an entry may be handled twice, and the handler must allow for that,
    for example by writing under the entry's `message_id`. Entries that stay in the stream until MAXLEN drops them
    are lost; those that Redis reports are counted in `stats.trimmed`.

    **Attempts.** If the handler raises, any worker tries the entry again after `claim_idle_s`. After `max_attempts`
    deliveries the entry moves to the dead letters, with the reason. Workers take over entries one by one: an entry
    that kills its worker each time costs its neighbours no attempts.

    **Order.** Entries of a shard are handled one after the other, different shards at the same time. Several workers
    on one shard keep no order between them. A worker with `shards` of its own keeps the order of each key, as long as
    no entry fails.

    No other worker takes an entry over while its handler runs, however long that takes. A handler that may hang needs
    a time-out of its own.

    `redis_url` is the URL of the server that holds the stream; None: the cluster's server for kept messages
    (`HELIOGRAPH_REDIS__URL`, `…__DURABLE_URL`), or for the stream `events` the one with the bus. Emissions of clients
    and lifecycle events are in each of `HELIOGRAPH_REDIS__SHARDS`, and are read from all of them, side by side.
    `prefix` and `shards_total` must be the writers' values. By default they are the cluster's; a stream of your own
    has 4 shards.

    The stream `events` has the lifecycle events (`LifecycleEvent.read`), those of each Redis all in one shard.

    With `otel` (None: what `HELIOGRAPH_OTEL__ENABLED` says) the handler runs in a span of OpenTelemetry, in the trace
    that the entry's field `traceparent` names, if it has one.
    """

    def __init__(
        self,
        redis_url: str | Sequence[str] | None,
        group: str,
        handler: Handler,
        *,
        stream: str = EMIT_STREAM,
        prefix: str | None = None,
        shards_total: int | None = None,
        shards: Sequence[int] | None = None,
        name: str | None = None,
        start: str = "0",
        count: int = 50,
        block_s: float = 1.0,
        claim_idle_s: float = 30.0,
        max_attempts: int = 5,
        otel: bool | None = None,
    ) -> None:
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.group = group
        self.stats = ConsumerStats()
        settings = cluster_settings(redis_url, durable_url=None if redis_url is None else "", prefix=prefix)
        total = shards_total or _shards_of(stream, settings)
        options = _Options(
            group,
            self.name,
            handler,
            stream,
            total,
            tuple(range(total)) if shards is None else tuple(shards),
            start,
            count,
            block_s,
            claim_idle_s,
            max_attempts,
            client_spans(otel),
        )
        self._stopping = asyncio.Event()
        places = _places(settings, stream)
        # Each worker keeps a connection while it waits for entries, and another one now and then.
        clients = Clients(max_connections=MAX_CONNECTIONS + 2 * len(places), timeout_s=block_s + ANSWER_S)
        self._workers = [_Worker(place, clients, options, self.stats, self._stopping) for place in places]

    def stop(self) -> None:
        """Have `run` finish the entries in hand, give back those that it has not begun, and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Read and handle entries until `stop`. If Redis is unreachable, retry with growing pauses.

        If it is cancelled instead, other workers take over the entries in hand after `claim_idle_s`.

        Raises:
            BadSetting: a Redis belongs to a cluster with other shards.
        """
        running = [asyncio.create_task(worker.run(), name=f"consumer-{self.name}") for worker in self._workers]
        try:
            await asyncio.gather(*running)
        finally:
            await end(running)
            self._stopping.clear()


@dataclass(frozen=True, slots=True)
class _Place:
    """A Redis with the stream. `tag`: see `Clients.open`. `layout`: which shard it must be; None: any."""

    url: str
    tag: str
    keys: Keys
    layout: Layout | None


def _places(settings: ClusterSettings, stream: str) -> list[_Place]:
    """Return where the stream is: in all shards for a stream of the cluster, otherwise in the first."""
    is_lifecycle = stream == LIFECYCLE_STREAM  # beside the directory whose changes it tells
    if is_lifecycle or (stream == EMIT_STREAM and settings.durable_url is None):
        return [_Place(target.url, target.tag, target.keys, target.layout) for target in targets(settings)]
    keys = Keys(settings.prefix, settings.bus_channel)
    return [_Place(settings.kept_url, keys.shard(stream, 0), keys, None)]


@dataclass(frozen=True, slots=True)
class _Options:
    """What the workers of a consumer share. See `Consumer`."""

    group: str
    name: str
    handler: Handler
    stream: str
    shards_total: int
    shards: Sequence[int]
    start: str
    count: int
    block_s: float
    claim_idle_s: float
    max_attempts: int
    spans: ClientSpans


class _Worker:
    """A consumer's part for one Redis."""

    def __init__(
        self, place: _Place, clients: Clients, options: _Options, stats: ConsumerStats, stopping: asyncio.Event
    ) -> None:
        self.stats = stats
        self.place = place
        self._clients = clients
        self.options = options
        self.name = options.name
        self.group = options.group
        self._shards = options.shards
        self._count = options.count
        self._claim_idle_s = options.claim_idle_s
        self._stopping = stopping
        self._in_hand: dict[int, dict[str, StreamEntry]] = defaultdict(dict)  # shard -> ours and not done, by id
        self._done: dict[int, set[str]] = defaultdict(set)  # shard -> handled, but not yet acknowledged
        self._next_claim_at = 0.0  # event loop's time
        self._stream: ShardedStream

    async def run(self) -> None:
        """See `Consumer.run`."""
        options = self.options
        client = self._clients.open(self.place.url, self.place.tag)
        self._stream = ShardedStream(client, self.place.keys, options.stream, shards=options.shards_total)
        keeper = asyncio.create_task(self._keep_loop(), name=f"consumer-keep-{self.name}")
        failures = 0
        ready = False
        start = options.start
        try:
            while not self._stopping.is_set():
                try:
                    if not ready:
                        await self._check_layout(client)
                        await self._stream.create_group(self.group, start=start)
                        ready, start = True, "0"  # a Redis that loses the group has lost the earlier entries too
                    await self._iterate()
                    failures = 0
                except BusUnavailable as error:
                    ready = False
                    self.stats.losses += 1
                    delay_s = _backoff_s(failures)
                    failures += 1
                    logger.warning("%s: %s; retrying in %.1f s", self.name, error, delay_s)
                    await self._pause(delay_s)
            await self._leave()
        finally:
            await end([keeper])
            self._in_hand.clear()
            await client.aclose()

    async def _check_layout(self, client: Client) -> None:
        """Raises BadSetting: this Redis is another shard."""
        if self.place.layout is None:
            return
        with as_bus_unavailable():
            try:
                await Scripts(client, self.place.keys, layout=self.place.layout).check_layout()
            except OtherLayout as error:
                raise BadSetting(str(error)) from None

    # -- one iteration

    async def _iterate(self) -> None:
        """Acknowledge handled entries, take over abandoned ones, then read new ones."""
        for shard in list(self._done):
            await self._acknowledge(shard)
        taken_over = await self._take_over()
        block_s = None if taken_over else self.options.block_s
        entries = await self._stream.read(
            self.group, self.name, count=self._count, block_s=block_s, shards=self._shards
        )
        for entry in entries:
            self._in_hand[entry.shard][entry.id] = entry
        shards = [list(group) for _, group in groupby(entries, key=lambda entry: entry.shard)]
        results = await asyncio.gather(*map(self._handle_in_order, shards), return_exceptions=True)
        if not self._stopping.is_set():
            self._in_hand.clear()  # other workers take over the entries that were not handled while Redis was away
        for error in results:
            if isinstance(error, BaseException):
                raise error

    async def _take_over(self) -> int:
        """Handle, now and then, entries that dead consumers or failed handlers have left. Return how many.

        At most as many as one read brings, so that old entries do not delay new ones.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next_claim_at:
            return 0
        taken_over = 0
        for shard in self._shards:
            cursor = ""
            while cursor != "0-0" and taken_over < self._count and not self._stopping.is_set():
                claimed = await self._stream.claim(
                    self.group, self.name, shard, min_idle_s=self._claim_idle_s, cursor=cursor or "0-0"
                )
                cursor = claimed.cursor
                if claimed.trimmed:
                    self.stats.trimmed += len(claimed.trimmed)
                    logger.error(
                        "%s: entries lost, trimmed before a worker handled them (raise MAXLEN): %s",
                        self.name,
                        claimed.trimmed,
                    )
                for entry in claimed.entries:
                    taken_over += 1
                    self.stats.claimed += 1
                    self._in_hand[shard][entry.id] = entry
                    await self._handle_in_order([entry])
        if taken_over < self._count:
            self._next_claim_at = now + self._claim_idle_s / 2
        return taken_over

    async def _handle_in_order(self, entries: list[StreamEntry]) -> None:
        for entry in entries:
            if self._stopping.is_set():
                return  # the rest in hand is given back
            await self._handle(entry)

    async def _handle(self, entry: StreamEntry) -> None:
        if entry.id not in self._done[entry.shard]:
            if entry.deliveries > self.options.max_attempts:
                await self._bury(entry, f"delivered {entry.deliveries - 1} times and never acknowledged")
                return
            try:
                await self._attempt(entry)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the handler's and is counted and logged
                await self._failed(entry, error)
                return
            self.stats.handled += 1
            self._done[entry.shard].add(entry.id)
        await self._acknowledge(entry.shard)

    async def _attempt(self, entry: StreamEntry) -> None:
        """Run the handler in a task of its own: a cancellation inside it does not cancel this consumer."""

        async def call() -> None:
            options = self.options
            with options.spans.processing(options.stream, options.group, entry):
                await options.handler(entry)

        task = asyncio.create_task(call(), name=f"consumer-entry-{entry.id}")
        try:
            await asyncio.wait((task,))
        finally:
            await end((task,))  # if this consumer was cancelled meanwhile
        if task.cancelled():
            raise HandlerCancelled("the handler was cancelled, or awaited something that was")
        task.result()

    async def _failed(self, entry: StreamEntry, error: Exception) -> None:
        self.stats.failed += 1
        logger.warning("%s: attempt %d at %s failed", self.name, entry.deliveries, entry.id, exc_info=error)
        if entry.deliveries >= self.options.max_attempts:
            await self._bury(entry, described(error))
        else:
            self._in_hand[entry.shard].pop(entry.id, None)  # idle from now on: tried again after claim_idle_s

    async def _acknowledge(self, shard: int) -> None:
        """Acknowledge handled entries in Redis. If that fails they stay noted, and are acknowledged later."""
        if done := list(self._done[shard]):
            await self._stream.acknowledge(self.group, shard, *done)
            self._done[shard].difference_update(done)
            for entry_id in done:
                self._in_hand[shard].pop(entry_id, None)

    async def _bury(self, entry: StreamEntry, reason: str) -> None:
        logger.error("%s: entry %s moved to the dead letters: %s", self.name, entry.id, reason)
        await self._stream.bury(
            self.group,
            entry,
            {
                "dead_reason": reason[:REASON_CHARACTERS].encode(errors="replace"),
                "dead_group": self.group,
                "dead_shard": str(entry.shard),
                "dead_id": entry.id,
                "dead_attempts": str(min(entry.deliveries, self.options.max_attempts)),
                "dead_at": iso8601(SystemClock().now()),
            },
        )
        self._in_hand[entry.shard].pop(entry.id, None)
        self.stats.dead += 1

    # -- beside the iterations

    async def _keep_loop(self) -> None:
        """Keep other workers from taking over the entries in hand, however long the handler takes."""
        while True:
            await asyncio.sleep(self._claim_idle_s / 3)
            try:
                for shard in [shard for shard, entries in self._in_hand.items() if entries]:
                    ours = [entry.id for entry in await self._still_ours(shard)]
                    await self._stream.keep(self.group, self.name, shard, ours)
            except BusUnavailable as error:
                logger.debug("%s: entries in hand not renewed: %s", self.name, error)  # the next read reports it

    async def _still_ours(self, shard: int) -> list[StreamEntry]:
        """Return the entries in hand that no other worker has taken over (after a long silence one may have)."""
        ours = await self._stream.pending(self.group, self.name, shard)
        return [self._in_hand[shard][entry_id] for entry_id in ours if entry_id in self._in_hand[shard]]

    async def _leave(self) -> None:
        """Give back entries that were not begun, so that others need not wait, and leave the group."""
        try:
            for shard in self._shards:
                await self._acknowledge(shard)
                await self._stream.give_back(
                    self.group, self.name, await self._still_ours(shard), idle_s=self._claim_idle_s
                )
            await self._stream.forget_consumer(self.group, self.name)
        except BusUnavailable as error:
            logger.warning("%s: stopped without leaving the group: %s", self.name, error)

    async def _pause(self, delay_s: float) -> None:
        """Wait, but at most until `stop`."""
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _shards_of(stream: str, settings: ClusterSettings) -> int:
    """Return the number of shards of a stream, as its writers have it by default."""
    if stream == LIFECYCLE_STREAM:
        return 1
    return settings.emit_shards if stream == EMIT_STREAM else SHARDS


def _backoff_s(failures: int) -> float:
    """Return the seconds until the next attempt: exponential, with full jitter, so that workers spread out."""
    doublings = min(failures, 16)  # small enough for a float, however long Redis is away
    return random.uniform(0, min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**doublings))  # noqa: S311 - not a secret

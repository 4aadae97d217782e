"""Durable streams in Redis for workers outside of the cluster, sharded by key and read by groups of consumers.

The log (`log.py`) brings the same to many viewers. A stream gives each entry to one worker of a group, and keeps it
until that worker has acknowledged it.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redis.typing import EncodableT, FieldT

from heliograph.backends.redis.budget import amount, refused
from heliograph.backends.redis.client import as_bus_unavailable, bus_unavailable
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.server import RedisServer
from heliograph.callbacks import await_callback
from heliograph.errors import BusUnavailable, OverBudget, StorageFull
from heliograph.ports import Emission
from heliograph.protocol.budget import NO_BUDGET, Budget

if TYPE_CHECKING:
    from heliograph.backends.redis.call_batch import Common
    from heliograph.backends.redis.scripts import Argument

EMIT_STREAM: Final = "emit"  # for emissions of clients
MAXLEN: Final = 100_000  # kept entries of one shard, roughly
DEAD_MAXLEN: Final = 10_000  # kept dead letters, roughly

Fields = dict[FieldT, EncodableT]  # the type that redis-py takes


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry of a stream. `deliveries`: how often a consumer got it, this time included."""

    shard: int
    id: str
    fields: Mapping[str, bytes]
    deliveries: int = 1

    def __getitem__(self, name: str) -> str:
        """Return a field as text."""
        return self.fields[name].decode()

    def json(self, name: str) -> Any:
        """Return a field that holds JSON, decoded."""
        return msgspec.json.decode(self.fields[name])


@dataclass(frozen=True, slots=True)
class Claimed:
    """Entries that were taken over. `cursor`: where to look next; "0-0" at the end.

    `trimmed`: ids of lost entries: they were not acknowledged, and MAXLEN has dropped them.
    """

    cursor: str
    entries: list[StreamEntry]
    trimmed: list[str]


class ShardedStream:
    """N Redis streams under one name. Entries with the same key are in the same shard, in order.

    The shard of a key depends on the number of shards, so all programs that use the stream must agree on it. The
    shards share a hash tag, so that one XREADGROUP can read several of them. All calls raise BusUnavailable if Redis
    cannot be reached or refuses. The client's owner closes it.
    """

    def __init__(self, client: Redis, keys: Keys, name: str, *, shards: int = 4, maxlen: int = MAXLEN) -> None:
        self._redis = client
        self.name = name
        self.maxlen = maxlen
        self.shard_keys = [keys.shard(name, shard) for shard in range(shards)]
        self.dead_key = keys.dead_letters(name)
        self._numbers = {key: number for number, key in enumerate(self.shard_keys)}

    def shard_of(self, key: str) -> int:
        """Return the shard of a key: the same in every process and in every version of Python."""
        return zlib.crc32(key.encode()) % len(self.shard_keys)

    # -- writing

    async def append(self, key: str, fields: Mapping[str, str | bytes]) -> str:
        """Keep an entry and return its id. Beyond about `maxlen` entries in a shard the oldest are dropped."""
        with as_bus_unavailable():
            entry_id = await self._redis.xadd(
                self.shard_keys[self.shard_of(key)], cast("Fields", fields), maxlen=self.maxlen, approximate=True
            )
        return _text(entry_id)

    # -- reading alone

    async def scan(self, shard: int, after: str, *, count: int) -> tuple[list[StreamEntry], bool]:
        """Return the next entries of a shard after the id `after` ("0-0": from the start of what is kept).

        The second value is True if the entry `after` itself is gone, and so perhaps others after it.
        """
        key = self.shard_keys[shard]
        with as_bus_unavailable():
            async with self._redis.pipeline(transaction=True) as transaction:
                transaction.xrange(key, "-", "+", 1)
                transaction.xrange(key, f"({after}", "+", count)
                first, found = await transaction.execute()
        gap = after != "0-0" and bool(first) and _order(_text(first[0][0])) > _order(after)
        return _entries(shard, found, deliveries=0), gap

    async def last_id(self, shard: int) -> str:
        """Return the id of a shard's last entry; "0-0" if it has none."""
        with as_bus_unavailable():
            found = cast("list[Any]", await self._redis.xrevrange(self.shard_keys[shard], "+", "-", 1))
        return _text(found[0][0]) if found else "0-0"

    # -- reading as a group

    async def create_group(self, group: str, *, start: str = "0") -> None:
        """Create a group in each shard that reads from `start` on ("0": all that is kept, "$": new entries only).

        An existing group keeps its position.
        """
        for key in self.shard_keys:
            with as_bus_unavailable():
                try:
                    await self._redis.xgroup_create(key, group, start, mkstream=True)
                except ResponseError as error:
                    if "BUSYGROUP" not in str(error):
                        raise

    async def read(
        self,
        group: str,
        consumer: str,
        *,
        count: int,
        block_s: float | None = None,
        shards: Sequence[int] | None = None,
    ) -> list[StreamEntry]:
        """Take at most `count` new entries of each shard for a consumer of the group, all in one command.

        Wait up to `block_s` for the first one (None: not at all); the client's time-out must be longer than that.
        """
        wanted = self.shard_keys if shards is None else [self.shard_keys[shard] for shard in shards]
        block_ms = None if block_s is None else max(1, int(block_s * 1000))  # 0 would wait for ever
        with as_bus_unavailable():
            answer = await self._redis.xreadgroup(group, consumer, dict.fromkeys(wanted, ">"), count, block_ms)
        found = cast("list[tuple[bytes, list[Any]]]", answer or [])
        return [
            entry for key, entries in found for entry in _entries(self._numbers[key.decode()], entries, deliveries=1)
        ]

    async def reread(
        self, group: str, consumer: str, shard: int, *, count: int
    ) -> tuple[list[StreamEntry], list[str]]:
        """Return at most `count` of the entries that the consumer got and has not acknowledged, the oldest first.

        The second value holds the ids of entries that MAXLEN has dropped since. This is not a delivery.
        """
        with as_bus_unavailable():
            answer = await self._redis.xreadgroup(group, consumer, {self.shard_keys[shard]: "0"}, count)
        found = [each for _, entries in cast("list[tuple[bytes, list[Any]]]", answer or []) for each in entries]
        kept = [each for each in found if each[1]]
        return _entries(shard, kept, deliveries=1), [_text(each[0]) for each in found if not each[1]]

    async def dead_letters(self, *, count: int, after: str = "-") -> list[StreamEntry]:
        """Return at most `count` dead letters, the oldest first. `after`: the id of the last one that was read."""
        start = after if after == "-" else f"({after}"
        with as_bus_unavailable():
            found = cast("list[Any]", await self._redis.xrange(self.dead_key, start, "+", count))
        return _entries(0, found, deliveries=0)

    async def forget_dead_letters(self, *entry_ids: str) -> None:
        """Drop dead letters that have been dealt with."""
        with as_bus_unavailable():
            await self._redis.xdel(self.dead_key, *entry_ids)

    async def acknowledge(self, group: str, shard: int, *entry_ids: str) -> int:
        """Acknowledge entries: no consumer of the group gets them again. Return how many were pending."""
        with as_bus_unavailable():
            return int(await self._redis.xack(self.shard_keys[shard], group, *entry_ids))

    # -- abandoned entries

    async def claim(
        self, group: str, consumer: str, shard: int, *, min_idle_s: float, count: int = 1, cursor: str = "0-0"
    ) -> Claimed:
        """Take over at most `count` entries that a consumer got `min_idle_s` ago and has not acknowledged.

        That counts as one more delivery of each.
        """
        key = self.shard_keys[shard]
        with as_bus_unavailable():
            following, found, trimmed = await self._redis.xautoclaim(
                key, group, consumer, min_idle_time=int(min_idle_s * 1000), start_id=cursor, count=count
            )
            entries = []
            for raw in found:
                [pending] = await self._redis.xpending_range(key, group, raw[0], raw[0], 1) or [{}]
                entries += _entries(shard, [raw], deliveries=int(pending.get("times_delivered", 1)))
        return Claimed(_text(following), entries, [_text(entry_id) for entry_id in trimmed])

    async def pending(self, group: str, consumer: str, shard: int, *, count: int = 10_000) -> list[str]:
        """Return the ids that the consumer got and has not acknowledged."""
        with as_bus_unavailable():
            found = await self._redis.xpending_range(
                self.shard_keys[shard], group, "-", "+", count, consumername=consumer
            )
        return [_text(each["message_id"]) for each in found]

    async def keep(self, group: str, consumer: str, shard: int, entry_ids: Sequence[str]) -> None:
        """Reset the idle time of entries that the consumer still handles. This is not a delivery."""
        if entry_ids:
            with as_bus_unavailable():
                await self._redis.xclaim(self.shard_keys[shard], group, consumer, 0, list(entry_ids), justid=True)

    async def give_back(self, group: str, consumer: str, entries: Sequence[StreamEntry], *, idle_s: float) -> None:
        """Give back entries that the consumer has not begun: idle for `idle_s`, and this delivery does not count."""
        idle_ms = int(idle_s * 1000)
        with as_bus_unavailable():
            async with self._redis.pipeline(transaction=False) as pipeline:
                for entry in entries:
                    key, before = self.shard_keys[entry.shard], entry.deliveries - 1
                    pipeline.xclaim(key, group, consumer, 0, [entry.id], idle=idle_ms, retrycount=before, justid=True)
                await pipeline.execute()

    async def bury(self, group: str, entry: StreamEntry, fields: Mapping[str, str | bytes]) -> None:
        """Move an entry to the dead letters, with `fields` added, and acknowledge it: both or neither."""
        key = self.shard_keys[entry.shard]
        with as_bus_unavailable():
            async with self._redis.pipeline(transaction=True) as transaction:
                transaction.xadd(
                    self.dead_key, cast("Fields", {**entry.fields, **fields}), maxlen=DEAD_MAXLEN, approximate=True
                )
                transaction.xack(key, group, entry.id)
                await transaction.execute()

    async def forget_consumer(self, group: str, consumer: str) -> None:
        """Remove a consumer without pending entries from the group."""
        for shard, key in enumerate(self.shard_keys):
            if not await self.pending(group, consumer, shard, count=1):
                with as_bus_unavailable():
                    await self._redis.xgroup_delconsumer(key, group, consumer)


class RedisEmissions:
    """`Emissions` in a sharded stream; a user's entries keep their order.

    `max_entries`, `max_bytes`: of one shard. Entries that every group has acknowledged are dropped to make room;
    otherwise new entries are refused. `ttl_s`: how long an entry is kept, handled or not.
    """

    def __init__(
        self,
        server: RedisServer,
        *,
        shards: int,
        max_entries: int,
        max_bytes: int,
        ttl_s: float,
        budget: Budget = NO_BUDGET,
    ) -> None:
        self._server = server
        self._keeping = server.keeping
        self._keys = server.keys
        self._stream = ShardedStream(server.client, server.keys, EMIT_STREAM, shards=shards)
        self._ttl_s = ttl_s
        self._budget = budget
        self._common: Common = (), (max_entries, max_bytes, budget.messages, budget.size)

    async def append(self, emission: Emission) -> None:
        arguments: list[Argument] = [
            *(bytes(emission.data), "" if emission.charge is None else amount(emission.charge)),
            *("event", emission.event, "user", emission.user, "replica", emission.replica),
            *("emitted_at", emission.emitted_at, "message_id", emission.message_id),
        ]
        if emission.session is not None:
            arguments += ["session", emission.session]
        shard = self._stream.shard_keys[self._stream.shard_of(emission.user)]
        call = [shard, self._keys.budget(emission.user)], arguments, self._common
        try:
            await await_callback(lambda done: self._keeping.call("emit", call, done))
        except RedisError as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> BusUnavailable | OverBudget:
        if (over := refused(error, self._budget)) is not None:
            return over
        if "FULL " in str(error):
            return StorageFull("the stream is full of what the workers have not handled yet (docs: Streams)")
        return bus_unavailable(error)

    async def sweep(self) -> None:
        """Drop entries and dead letters that are older than the time to live.

        Raises:
            BusUnavailable: not now.
        """
        with as_bus_unavailable():
            before = max(0, await self._server.now_ms() - int(self._ttl_s * 1000))
            for key in (*self._stream.shard_keys, self._stream.dead_key):
                await self._server.link.ask("XTRIM", key, "MINID", before)


def _entries(shard: int, found: Sequence[tuple[bytes, dict[bytes, bytes]]], *, deliveries: int) -> list[StreamEntry]:
    """Return the entries; one that was trimmed meanwhile has no fields, and is left out."""
    return [
        StreamEntry(
            shard, entry_id.decode(), {name.decode(): value for name, value in (fields or {}).items()}, deliveries
        )
        for entry_id, fields in found
    ]


def _order(entry_id: str) -> tuple[int, int]:
    """Return the sort key of ids: milliseconds, then a counter."""
    milliseconds, _, counter = entry_id.partition("-")
    return int(milliseconds), int(counter or 0)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

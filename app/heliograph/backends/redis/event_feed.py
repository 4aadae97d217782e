"""Lifecycle events in Redis for the replica that pushes them: a group with one consumer, which is one replica."""

import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.keys import LIFECYCLE_STREAM
from heliograph.backends.redis.server import RedisServer
from heliograph.backends.redis.streams import ShardedStream, StreamEntry
from heliograph.clock import Clock, iso8601
from heliograph.errors import BusUnavailable
from heliograph.ports import PUSHER_TTL_S
from heliograph.protocol.lifecycle import LifecycleEvent

logger = logging.getLogger(__name__)

WEBHOOK_GROUP: Final = "webhooks"
CONSUMER: Final = "pusher"  # whichever replica it is: so each finds what the one before it has not finished
REASON_CHARACTERS: Final = 500


class RedisLifecycleFeed:
    """A `LifecycleFeed` in Redis."""

    def __init__(self, server: RedisServer, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._stream = ShardedStream(server.client, server.keys, LIFECYCLE_STREAM, shards=1)
        self._entries: dict[str, StreamEntry] = {}  # those of the last `next`, by id
        self._has_group = False

    async def own(self) -> bool:
        with as_bus_unavailable():
            key = [self._server.keys.webhook_pusher]
            ttl_ms = round(PUSHER_TTL_S * 1000)
            return bool(await self._server.scripts.run("own", key, [self._server.node_id, ttl_ms]))

    async def disown(self) -> None:
        with as_bus_unavailable():
            await self._server.scripts.run("disown", [self._server.keys.webhook_pusher], [self._server.node_id])

    async def next(self, count: int) -> list[LifecycleEvent]:
        try:
            if not self._has_group:
                await self._stream.create_group(WEBHOOK_GROUP)
                self._has_group = True
            entries, dropped = await self._stream.reread(WEBHOOK_GROUP, CONSUMER, 0, count=count)
            if dropped:
                logger.error(
                    "%d lifecycle events were dropped before they were pushed (raise HELIOGRAPH_EVENTS__MAXLEN)",
                    len(dropped),
                )
                await self._stream.acknowledge(WEBHOOK_GROUP, 0, *dropped)
            if not entries:
                entries = await self._stream.read(WEBHOOK_GROUP, CONSUMER, count=count)
        except BusUnavailable:
            self._has_group = False  # a Redis that has lost its data has lost the group too
            raise
        self._entries = {entry.id: entry for entry in entries}
        return [event for entry in entries if (event := await self._read(entry)) is not None]

    async def acknowledge(self, events: Sequence[LifecycleEvent]) -> None:
        await self._stream.acknowledge(WEBHOOK_GROUP, 0, *(event.id for event in events))

    async def bury(self, event: LifecycleEvent, reason: str) -> None:
        await self._bury(self._entries[event.id], reason)

    async def _read(self, entry: StreamEntry) -> LifecycleEvent | None:
        try:
            return LifecycleEvent.read(entry)
        except (msgspec.ValidationError, UnicodeDecodeError) as error:
            await self._bury(entry, f"this is no lifecycle event: {error}")
            return None

    async def _bury(self, entry: StreamEntry, reason: str) -> None:
        fields: dict[str, str | bytes] = {
            "dead_reason": reason[:REASON_CHARACTERS].encode(errors="replace"),
            "dead_group": WEBHOOK_GROUP,
            "dead_shard": str(entry.shard),
            "dead_id": entry.id,
            "dead_at": iso8601(self._clock.now()),
        }
        await self._stream.bury(WEBHOOK_GROUP, entry, fields)

"""Tickets where there are several shards: each ticket is kept in the shard of its name."""

from collections.abc import Sequence

from heliograph.ports import Tickets
from heliograph.protocol.shard_map import ShardMap


class ShardedTickets:
    """`Tickets` over those of all shards."""

    def __init__(self, shards: Sequence[Tickets]) -> None:
        self._shards = tuple(shards)
        self._map = ShardMap(len(self._shards))

    async def keep(self, name: str, value: bytes, ttl_s: float) -> None:
        await self._of(name).keep(name, value, ttl_s)

    async def take(self, name: str) -> bytes | None:
        return await self._of(name).take(name)

    async def read(self, name: str) -> bytes | None:
        return await self._of(name).read(name)

    async def count(self, name: str, ttl_s: float) -> int:
        return await self._of(name).count(name, ttl_s)

    def _of(self, name: str) -> Tickets:
        return self._shards[self._map.of(name)]

"""The channel counts in Redis."""

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, cast

from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.server import RedisServer

if TYPE_CHECKING:
    from heliograph.backends.redis.scripts import Argument

BATCH = 500  # channels in one command: short enough not to delay Redis


class RedisChannelCounts:
    """A `ChannelCountsBackend` in Redis: a hash for each lease."""

    def __init__(self, server: RedisServer) -> None:
        self._redis = server.client
        self._scripts = server.scripts
        self._keys = server.keys

    async def enter(self, lease: str, counts: Mapping[str, int]) -> bool:
        entries = iter(counts.items())
        while batch := dict(islice(entries, BATCH)):
            with as_bus_unavailable():
                if not await self._set(lease, batch):
                    return False
        return True

    async def _set(self, lease: str, counts: Mapping[str, int]) -> bool:
        keys = [self._keys.leases, self._keys.channel_counts(lease)]
        arguments: list[Argument] = [lease, *(part for entry in counts.items() for part in entry)]
        return bool(await self._scripts.run("channel_counts", keys, arguments))

    async def counts(self) -> dict[str, dict[str, int]]:
        with as_bus_unavailable():
            leases = cast("list[bytes]", await self._redis.zrange(self._keys.leases, 0, -1))
            return {lease: await self._counts_of(lease) for lease in map(bytes.decode, leases)}

    async def forget(self, lease: str) -> None:
        with as_bus_unavailable():
            await self._redis.unlink(self._keys.channel_counts(lease))

    async def _counts_of(self, lease: str) -> dict[str, int]:
        """Read in steps: a replica may have tens of thousands of channels."""
        return {
            channel.decode(): int(count)
            async for channel, count in self._redis.hscan_iter(self._keys.channel_counts(lease), count=BATCH)
        }

"""Where tickets are kept until they are used: in Redis, so that any replica can redeem them, or in memory."""

from collections import OrderedDict
from typing import Final, cast

from redis.asyncio import Redis

from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.keys import Keys
from heliograph.clock import Clock

MOST_KEPT: Final = 100_000  # in memory; older ones are forgotten


class RedisTickets:
    """`Tickets` in Redis. The client stays its owner's to close."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys

    async def keep(self, name: str, value: bytes, ttl_s: float) -> None:
        with as_bus_unavailable():
            await self._redis.set(self._keys.ticket(name), value, px=max(1, int(ttl_s * 1000)))

    async def take(self, name: str) -> bytes | None:
        with as_bus_unavailable():
            return cast("bytes | None", await self._redis.getdel(self._keys.ticket(name)))

    async def read(self, name: str) -> bytes | None:
        with as_bus_unavailable():
            return cast("bytes | None", await self._redis.get(self._keys.ticket(name)))


class MemoryTickets:
    """`Tickets` in this process's memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()  # name -> (good until, monotonic; value)

    async def keep(self, name: str, value: bytes, ttl_s: float) -> None:
        now = self._clock.monotonic()
        while self._kept and (len(self._kept) >= MOST_KEPT or next(iter(self._kept.values()))[0] <= now):
            self._kept.popitem(last=False)
        self._kept.pop(name, None)
        self._kept[name] = (now + ttl_s, value)

    async def take(self, name: str) -> bytes | None:
        value = await self.read(name)
        self._kept.pop(name, None)
        return value

    async def read(self, name: str) -> bytes | None:
        until, value = self._kept.get(name, (0.0, b""))
        return value if value and self._clock.monotonic() < until else None

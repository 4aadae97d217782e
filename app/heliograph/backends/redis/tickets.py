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

    async def count(self, name: str, ttl_s: float) -> int:
        key = self._keys.ticket(name)
        with as_bus_unavailable():
            async with self._redis.pipeline(transaction=True) as both:
                both.incr(key)
                both.pexpire(key, max(1, int(ttl_s * 1000)))
                number, _ = await both.execute()
        return cast("int", number)


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

    async def count(self, name: str, ttl_s: float) -> int:
        number = int(await self.read(name) or 0) + 1
        await self.keep(name, str(number).encode(), ttl_s)
        return number

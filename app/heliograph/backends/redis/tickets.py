"""Tickets in Redis, so that any replica can redeem them."""

from typing import cast

from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.server import RedisServer


class RedisTickets:
    """`Tickets` in Redis."""

    def __init__(self, server: RedisServer) -> None:
        self._redis = server.client
        self._keys = server.keys

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

"""Tickets in this process's memory, until they are used."""

from collections import OrderedDict
from typing import Final

from heliograph.clock import Clock

MOST_KEPT: Final = 100_000  # older ones are forgotten


class MemoryTickets:
    """`Tickets` in this process's memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()  # name -> (expiry, monotonic; value)

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

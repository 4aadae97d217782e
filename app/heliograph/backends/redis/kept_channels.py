"""The channels of which Redis keeps publications, found by looking through its keys.

Nothing is written for this on the path of a message. A page looks at a limited number of keys, so that Redis is never
busy with it for longer than about a millisecond at once.
"""

import re
from typing import Final, cast

from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.server import RedisServer
from heliograph.errors import BadCursor
from heliograph.ports import KeptPage

STEP: Final = 500  # keys that Redis looks at in one command, roughly
MOST_STEPS: Final = 40  # commands for one page
_CURSOR: Final = re.compile(r"([0-9]{1,20}):(.*)", re.DOTALL)
_SPECIAL: Final = re.compile(r"([*?\[\]^\\])")


class RedisKeptChannels:
    """`KeptChannels` in Redis. A cursor is that of SCAN, and the last name that was returned of what it found."""

    def __init__(self, server: RedisServer) -> None:
        self._redis = server.client
        self._keys = server.keys

    async def page(self, prefix: str, search: str, cursor: str, limit: int) -> KeptPage:
        read = _CURSOR.fullmatch(cursor or "0:")
        if read is None or int(read[1]) >= 1 << 64:
            raise BadCursor(f"no page has the cursor {cursor[:64]!r}")
        place, last = int(read[1]), read[2]
        found: list[str] = []
        for _ in range(MOST_STEPS):
            following, names = await self._step(place, prefix, search)
            for name in sorted(name for name in names if name > last):
                if len(found) == limit:
                    return KeptPage(found, f"{place}:{last}")
                found.append(name)
                last = name
            place, last = following, ""
            if place == 0:
                return KeptPage(found, "")
        return KeptPage(found, f"{place}:")

    async def _step(self, place: int, prefix: str, search: str) -> tuple[int, set[str]]:
        """Return the next place, and the channels that one SCAN has found."""
        begin = self._keys.stream("").removesuffix("}:log")  # of every key of a channel
        pattern = f"{_literal(begin + prefix)}*{_literal(search)}*" if search else f"{_literal(begin + prefix)}*"
        with as_bus_unavailable():
            following, keys = cast(
                "tuple[int, list[bytes]]",
                await self._redis.scan(place, match=f"{pattern}}}:*", count=STEP, _type="stream"),
            )
            names = {"log": set[str](), "clients": set[str]()}
            for key in keys:
                name, _, part = key.decode()[len(begin) :].rpartition("}:")
                if part in names and search in name[len(prefix) :]:
                    names[part].add(name)
            only_clients = list(names["clients"] - names["log"])
            if only_clients:  # with a stream of servers too, the channel is found by that
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for name in only_clients:
                        pipeline.exists(self._keys.stream(name))
                    has_both = await pipeline.execute()
                only_clients = [name for name, both in zip(only_clients, has_both, strict=True) if not both]
        return following, names["log"].union(only_clients)


def _literal(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)

"""Connections that are opened once, for all that need one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from heliograph.backends.redis.cluster.topology import Node
from heliograph.tasks import end


class Shared(Protocol):
    """A connection that several virtual shards use."""

    is_open: bool

    async def close(self) -> None: ...


_Shared = TypeVar("_Shared", bound=Shared)


class Opened(Generic[_Shared]):
    """Connections to servers, at most one for each of their `kind`s. Each is opened for all that ask meanwhile."""

    def __init__(self, open_one: Callable[[Node], Awaitable[_Shared]]) -> None:
        self._open_one = open_one
        self._found: dict[tuple[Node, str], _Shared] = {}
        self._opening: dict[tuple[Node, str], asyncio.Task[_Shared]] = {}

    async def get(self, node: Node, kind: str = "") -> _Shared:
        """Return the connection of this kind to a server. Raises the errors of redis-py."""
        key = node, kind
        found = self._found.get(key)
        if found is not None and found.is_open:
            return found
        if key not in self._opening:
            task = self._opening[key] = asyncio.create_task(self._open(key), name="redis-trunk")
            task.add_done_callback(_hear)
        return await asyncio.shield(self._opening[key])

    async def close(self) -> None:
        """Close all of them."""
        await end(list(self._opening.values()))
        found, self._found = self._found, {}
        for each in found.values():
            await each.close()

    async def _open(self, key: tuple[Node, str]) -> _Shared:
        try:
            opened = self._found[key] = await self._open_one(key[0])
        finally:
            del self._opening[key]
        return opened


def _hear(opening: "asyncio.Task[Any]") -> None:
    """Take an error that nobody waits for any more."""
    if not opening.cancelled():
        opening.exception()

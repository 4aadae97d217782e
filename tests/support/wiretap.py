"""A directory backend that is listened to, held up and broken from outside."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Literal, TypeVar

from heliograph.errors import BusUnavailable
from heliograph.ports import DirectoryBackend, Renewal, ReplicaInfo

T = TypeVar("T")


class Wiretap:
    """Stands between a directory and its backend, and passes everything on.

    `broken="before"`: calls fail and are not carried out; `"after"`: they are carried out, and fail all the same.
    """

    def __init__(self, backend: DirectoryBackend) -> None:
        self.backend = backend
        self.broken: Literal["before", "after"] | None = None
        self.calls: list[str] = []
        self._open = asyncio.Event()
        self._open.set()

    def freeze(self) -> None:
        """From now on calls wait, as those of a process that was stopped."""
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    def count(self, verb: str) -> int:
        return self.calls.count(verb)

    async def take(self, lease: str, info: ReplicaInfo, ttl_s: float) -> None:
        await self._pass("take", self.backend.take(lease, info, ttl_s))

    async def renew(self, lease: str, info: ReplicaInfo, ttl_s: float) -> Renewal:
        return await self._pass("renew", self.backend.renew(lease, info, ttl_s))

    async def hold(self, lease: str, connections: Mapping[str, int]) -> dict[str, int] | None:
        return await self._pass("hold", self.backend.hold(lease, connections))

    async def holders(self, user_id: str) -> dict[str, int]:
        return await self._pass("holders", self.backend.holders(user_id))

    async def users(self) -> set[str]:
        return await self._pass("users", self.backend.users())

    async def doom(self, lease: str) -> None:
        await self._pass("doom", self.backend.doom(lease))

    async def reap(self, lease: str) -> int:
        return await self._pass("reap", self.backend.reap(lease))

    async def replicas(self) -> list[ReplicaInfo]:
        return await self._pass("replicas", self.backend.replicas())

    async def _pass(self, verb: str, call: Coroutine[Any, Any, T]) -> T:
        self.calls.append(verb)
        try:
            await self._open.wait()
            if self.broken == "before":
                raise BusUnavailable("broken by the test")
            result = await call
        finally:
            call.close()
        if self.broken == "after":
            raise BusUnavailable("broken by the test, after it was done")
        return result

"""The channels of which this process keeps publications."""

import heapq

from heliograph.backends.memory.log import MemoryLog
from heliograph.ports import KeptPage


class MemoryKeptChannels:
    """`KeptChannels` of a `MemoryLog`, by name. A cursor is the last name that was returned."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def page(self, prefix: str, search: str, cursor: str, limit: int) -> KeptPage:
        names = [
            name
            for name in self._log.kept_channels()
            if name > cursor and name.startswith(prefix) and search in name[len(prefix) :]
        ]
        found = heapq.nsmallest(limit, names)
        return KeptPage(found, found[-1] if len(names) > len(found) else "")

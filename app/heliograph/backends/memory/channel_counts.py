"""The channel counts in this process's memory."""

from collections.abc import Mapping


class MemoryChannelCounts:
    """A `ChannelCountsBackend` for one process."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}  # lease -> channel -> connections

    async def enter(self, lease: str, counts: Mapping[str, int]) -> bool:
        known = {**self._counts.get(lease, {}), **counts}
        self._counts[lease] = {channel: count for channel, count in known.items() if count}
        return True

    async def counts(self) -> dict[str, dict[str, int]]:
        return {lease: dict(counts) for lease, counts in self._counts.items()}

    async def forget(self, lease: str) -> None:
        self._counts.pop(lease, None)

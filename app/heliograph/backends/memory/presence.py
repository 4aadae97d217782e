"""Presence in this process's memory."""

from collections.abc import Callable, Sequence

from heliograph.ports import PresenceEntry


class MemoryPresence:
    """A `PresenceBackend` for one process. `announce(channel, user, joined)` tells the subscribers here."""

    def __init__(self, announce: Callable[[str, str, bool], object]) -> None:
        self._announce = announce
        self._members: dict[str, dict[str, dict[str, int]]] = {}  # channel -> user -> lease -> connections

    async def enter(self, lease: str, entries: Sequence[PresenceEntry]) -> bool:
        for entry in entries:
            self._enter(lease, entry)
        return True

    async def members(self, channel: str) -> dict[str, int]:
        return {user: sum(leases.values()) for user, leases in self._members.get(channel, {}).items()}

    async def reap(self, lease: str, announced: Callable[[str], bool]) -> None:
        gone = [
            PresenceEntry(channel, user, connections=0, announced=announced(channel))
            for channel, users in self._members.items()
            for user, leases in users.items()
            if lease in leases
        ]
        await self.enter(lease, gone)

    def _enter(self, lease: str, entry: PresenceEntry) -> None:
        users = self._members.setdefault(entry.channel, {})
        leases = users.setdefault(entry.user, {})
        was_there = bool(leases)
        if entry.connections:
            leases[lease] = entry.connections
        else:
            leases.pop(lease, None)
        is_there = bool(leases)
        if not is_there:
            del users[entry.user]
        if not users:
            del self._members[entry.channel]
        if entry.announced and is_there != was_there:
            self._announce(entry.channel, entry.user, is_there)

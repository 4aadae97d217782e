"""Presence in this process's memory."""

from collections.abc import Callable, Sequence

from heliograph.ports import Announcer, PresenceEntry
from heliograph.protocol.client_info import ClientInfo


class MemoryPresence:
    """A `PresenceBackend` for one process."""

    def __init__(self, announcer: Announcer) -> None:
        self._announcer = announcer
        self._members: dict[str, dict[str, dict[str, int]]] = {}  # channel -> user -> lease -> connections
        self._clients: dict[str, dict[str, tuple[str, ClientInfo]]] = {}  # channel -> client -> (lease, its infos)

    async def enter(self, lease: str, entries: Sequence[PresenceEntry]) -> bool:
        for entry in entries:
            self._enter(lease, entry)
            for client, info in entry.clients:
                self._enter_client(lease, entry, client, info)
        return True

    async def members(self, channel: str) -> dict[str, int]:
        return {user: sum(leases.values()) for user, leases in self._members.get(channel, {}).items()}

    async def clients(self, channel: str) -> dict[str, ClientInfo]:
        return {client: info for client, (_, info) in self._clients.get(channel, {}).items()}

    async def reap(self, lease: str, announced: Callable[[str], bool]) -> None:
        gone = [
            PresenceEntry(channel, user, 0, announced(channel), self._clients_of(lease, channel, user))
            for channel, users in self._members.items()
            for user, leases in users.items()
            if lease in leases
        ]
        await self.enter(lease, gone)

    def _clients_of(self, lease: str, channel: str, user: str) -> list[tuple[str, None]]:
        """Return the user's clients under the lease, as gone."""
        clients = self._clients.get(channel, {}).items()
        return [(client, None) for client, (by, info) in clients if by == lease and info.user == user]

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
            self._announcer.user(entry.channel, entry.user, is_there)

    def _enter_client(self, lease: str, entry: PresenceEntry, client: str, info: ClientInfo | None) -> None:
        clients = self._clients.setdefault(entry.channel, {})
        known = clients.get(client)
        if info is not None:
            clients.setdefault(client, (lease, info))
        else:
            clients.pop(client, None)
        if not clients:
            del self._clients[entry.channel]
        told = info if known is None else known[1] if info is None else None
        if entry.announced and told is not None:
            self._announcer.client(entry.channel, told, joined=info is not None)

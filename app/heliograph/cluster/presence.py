"""Presence on channels over all replicas: this replica's entries, kept true under its lease.

A join is written at once. A user's leave is written a grace time later, so that a page that is reloaded, or a client
that moves to another replica, causes neither. A client's leave is written at once: its session does not come back.
Entries of a dead replica expire with its lease.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from heliograph.cluster.directory import Directory
from heliograph.errors import BusUnavailable
from heliograph.hub.connection import Connection
from heliograph.ports import PresenceBackend, PresenceEntry
from heliograph.protocol.client_info import ClientInfo, info_of
from heliograph.protocol.namespace import Namespaces
from heliograph.tasks import end

logger = logging.getLogger(__name__)

MANY = 100  # from this number of users on, an answer is reused for FRESH_S
FRESH_S = 1.0
RETRY_S = 0.5  # until failed entries are tried again

Key = tuple[str, str]  # channel, user


@dataclass(frozen=True, slots=True)
class Roster:
    """The users on a channel at one moment, with their connections, and the total of connections."""

    users: dict[str, int]
    connections: int
    read_at: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class ClientRoster:
    """The clients on a channel at one moment, by the ids of their sessions.

    What is counted of them is counted once: whoever asks again within FRESH_S must not have a crowd counted again.
    """

    clients: Mapping[str, ClientInfo]
    users: int
    info_bytes: int  # what their tokens say, all together
    read_at: float  # monotonic seconds


class Presence:
    """This replica's part in the presence of all channels."""

    def __init__(
        self, backend: PresenceBackend, directory: Directory, namespaces: Namespaces, *, grace_s: float
    ) -> None:
        self._backend = backend
        self._directory = directory
        self._namespaces = namespaces
        self._grace_s = grace_s
        self._here: dict[Key, dict[str, ClientInfo]] = {}  # -> client -> its infos, of this replica
        self._leaving: dict[Key, asyncio.TimerHandle] = {}  # users whose last client here has just left
        self._due: dict[Key, dict[str, None]] = {}  # entries to write, in order, with the clients that have changed
        self._rosters: dict[str, Roster] = {}  # of channels with many users, as last read
        self._client_rosters: dict[str, ClientRoster] = {}  # likewise
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        directory.on_new_lease(self._enter_all)
        directory.on_reap(self._reap)

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name="presence")

    async def stop(self) -> None:
        """Stop writing. The entries expire with the lease."""
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])

    def came(self, connection: Connection, channel: str, info: bytes | None = None) -> None:
        """Note that the connection is on the channel. `info`: what is said of it there, JSON."""
        if not self._namespaces.of(channel).presence:
            return
        client = ClientInfo(connection.id, connection.user, info_of(connection.info), info_of(info))
        key = (channel, connection.user)
        self._here.setdefault(key, {})[connection.id] = client
        if (leaving := self._leaving.pop(key, None)) is not None:
            leaving.cancel()
        self._enter(key, connection.id)

    def went(self, connection: Connection, channel: str) -> None:
        """Note that the connection has left the channel."""
        key = (channel, connection.user)
        clients = self._here.get(key)
        if clients is None or clients.pop(connection.id, None) is None:
            return
        if not clients:
            del self._here[key]
            loop = asyncio.get_running_loop()
            self._leaving[key] = loop.call_later(self._grace_s, self._leave, key)
        self._enter(key, connection.id)

    async def roster(self, channel: str) -> Roster:
        """Return who is on the channel, over all replicas.

        On a channel with many users the answer may be a second old, so that one client with many requests cannot keep
        Redis and this process busy.

        Raises:
            BusUnavailable: Redis cannot be reached.
        """
        known = self._rosters.get(channel)
        if known is not None and asyncio.get_running_loop().time() - known.read_at < FRESH_S:
            return known
        users = await self._backend.members(channel)
        now = asyncio.get_running_loop().time()
        roster = Roster(users, sum(users.values()), now)
        self._rosters = {name: each for name, each in self._rosters.items() if now - each.read_at < FRESH_S}
        if len(users) >= MANY:
            self._rosters[channel] = roster
        return roster

    async def clients(self, channel: str) -> ClientRoster:
        """Return which clients are on the channel, over all replicas; otherwise like `roster`."""
        known = self._client_rosters.get(channel)
        if known is not None and asyncio.get_running_loop().time() - known.read_at < FRESH_S:
            return known
        clients = await self._backend.clients(channel)
        now = asyncio.get_running_loop().time()
        users = len({each.user for each in clients.values()})
        info_bytes = sum(len(each.conn_info) + len(each.chan_info) for each in clients.values())
        roster = ClientRoster(clients, users, info_bytes, now)
        self._client_rosters = {
            name: each for name, each in self._client_rosters.items() if now - each.read_at < FRESH_S
        }
        if len(clients) >= MANY:
            self._client_rosters[channel] = roster
        return roster

    async def _reap(self, lease: str) -> None:
        await self._backend.reap(lease, lambda channel: self._namespaces.of(channel).join_leave)

    def _leave(self, key: Key) -> None:
        """Note that the user's last client has been gone for the grace time."""
        del self._leaving[key]
        self._enter(key)

    def _enter(self, key: Key, *clients: str) -> None:
        self._due.setdefault(key, {}).update(dict.fromkeys(clients))
        self._work.set()

    def _enter_all(self) -> None:
        """Write all entries again: a new lease begins without entries."""
        for key in self._leaving:
            self._enter(key)
        for key, clients in self._here.items():
            self._enter(key, *clients)

    def _entry(self, key: Key, changed: Iterable[str]) -> PresenceEntry:
        """Return the present entry of a user. A user whose last client has just left is still on the channel."""
        channel, user = key
        clients = self._here.get(key, {})
        return PresenceEntry(
            channel,
            user,
            len(clients) or (1 if key in self._leaving else 0),
            self._namespaces.of(channel).join_leave,
            [(client, clients.get(client)) for client in changed],
        )

    async def _loop(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            due, self._due = self._due, {}
            entries = [self._entry(key, clients) for key, clients in due.items()]
            try:
                entered = await self._backend.enter(self._directory.lease, entries)
            except BusUnavailable as error:
                logger.debug("%d entries not written, retrying: %s", len(entries), error)
                entered = False
            except Exception:
                logger.exception(
                    "writing %d presence entries failed with an unexpected error; retrying", len(entries)
                )
                entered = False
            if not entered:
                for key, clients in due.items():
                    self._enter(key, *clients)
                await asyncio.sleep(RETRY_S)
                self._work.set()

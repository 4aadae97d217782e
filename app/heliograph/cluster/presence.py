"""Presence on channels over all replicas: this replica's entries, kept true under its lease.

A join is written at once. A leave is written a grace time later, so that a page that is reloaded, or a client that
moves to another replica, causes neither. Entries of a dead replica expire with its lease.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from heliograph.cluster.directory import Directory
from heliograph.errors import BusUnavailable
from heliograph.ports import PresenceBackend, PresenceEntry
from heliograph.protocol.namespace import Namespaces
from heliograph.tasks import end

logger = logging.getLogger(__name__)

MANY = 100  # from this number of users on, an answer is reused for FRESH_S
FRESH_S = 1.0
RETRY_S = 0.5  # until failed entries are tried again


@dataclass(frozen=True, slots=True)
class Roster:
    """The users on a channel at one moment, with their connections, and the total of connections."""

    users: dict[str, int]
    connections: int
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
        self._here: Counter[tuple[str, str]] = Counter()  # (channel, user) -> connections on this replica
        self._due: dict[tuple[str, str], None] = {}  # entries to write, in order
        self._rosters: dict[str, Roster] = {}  # of channels with many users, as last read
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

    def came(self, user: str, channel: str) -> None:
        """Count one more connection of the user on the channel here."""
        if self._namespaces.of(channel).presence:
            self._here[channel, user] += 1
            self._enter((channel, user))

    def went(self, user: str, channel: str) -> None:
        """Count one connection fewer."""
        if not self._namespaces.of(channel).presence or (channel, user) not in self._here:
            return
        self._here[channel, user] -= 1
        if self._here[channel, user] <= 0:
            del self._here[channel, user]
            asyncio.get_running_loop().call_later(self._grace_s, self._enter, (channel, user))
        else:
            self._enter((channel, user))

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

    async def _reap(self, lease: str) -> None:
        await self._backend.reap(lease, lambda channel: self._namespaces.of(channel).join_leave)

    def _enter(self, entry: tuple[str, str]) -> None:
        self._due[entry] = None
        self._work.set()

    def _enter_all(self) -> None:
        """Write all entries again: a new lease begins without entries."""
        self._due.update(dict.fromkeys(self._here))
        self._work.set()

    async def _loop(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            due, self._due = self._due, {}
            entries = [
                PresenceEntry(
                    channel, user, self._here.get((channel, user), 0), self._namespaces.of(channel).join_leave
                )
                for channel, user in due
            ]
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
                self._due = {**due, **self._due}
                await asyncio.sleep(RETRY_S)
                self._work.set()

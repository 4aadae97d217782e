"""The connections of clients between two polls, and the polls that continue one."""

from typing import Final

import msgspec

from heliograph.auth.authenticator import Identity
from heliograph.errors import ErrorCode, HeliographError
from heliograph.transports.poll_connection import PollConnection
from heliograph.transports.poll_key import PollKey, PollResponse
from heliograph.transports.query import Query

DEFAULT_WAIT_S: Final = 25.0
MOST_WAIT_S: Final = 50.0


class BadWait(HeliographError):
    """A `wait` that is not valid."""

    code = ErrorCode.BAD_REQUEST


class ParkedPolls:
    """Keep the connections that wait for their next poll, for `linger_s` each.

    `replica`: the name that answers say.
    """

    def __init__(self, replica: str, linger_s: float) -> None:
        self._replica = replica
        self._linger_s = linger_s
        self._parked: dict[PollKey, list[PollConnection]] = {}  # those without a waiting poll, oldest first

    def __contains__(self, asked: PollKey) -> bool:
        return asked in self._parked

    def take(self, asked: PollKey) -> PollConnection | None:
        """Return the connection that the poll continues, if there is one."""
        connections = self._parked.get(asked)
        if not connections or not asked.cursor:
            return None
        connection = connections.pop()
        if not connections:
            del self._parked[asked]
        return connection

    def keep(self, connection: PollConnection, at: PollKey) -> None:
        """Let the connection wait for this poll."""
        self._parked.setdefault(at, []).append(connection)
        connection.park(self._linger_s, lambda: self._forget(connection, at))

    def answer(self, asked: PollKey, connection: PollConnection, events: list[msgspec.Raw]) -> bytes:
        """Return the body of an answer, and let the connection wait for the next poll."""
        cursor = connection.cursor
        if connection.closed is not None:
            connection.end()
        else:
            self.keep(connection, PollKey(asked.who, asked.channels, cursor, asked.device))
        return msgspec.json.encode(PollResponse(asked.who.user, self._replica, cursor, events))

    def make_room(self, user: str) -> bool:
        """End the user's oldest connection that waits here; False if there is none."""
        for asked, connections in self._parked.items():
            if asked.who.user == user:
                connections[0].end()
                return True
        return False

    def end_all(self) -> None:
        """End all connections that wait here."""
        for connection in [each for connections in self._parked.values() for each in connections]:
            connection.end()

    def _forget(self, connection: PollConnection, at: PollKey) -> None:
        connections = self._parked.get(at)
        if connections is not None and connection in connections:
            connections.remove(connection)
            if not connections:
                del self._parked[at]


def key_of(identity: Identity, query: Query) -> PollKey:
    """Return what a poll must have in common with the one that it continues."""
    who = msgspec.structs.replace(identity, expires_at=None, data=None)
    return PollKey(who, query.channels, query.get("cursor", ""), query.get("device", ""))


def wait_of(query: Query) -> float:
    """Return `?wait=`: how long the client waits for an event, in seconds.

    Raises:
        BadWait: it is no such number.
    """
    text = query.get("wait", "")
    try:
        wait_s = float(text) if text else DEFAULT_WAIT_S
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= MOST_WAIT_S:
        raise BadWait(f"'wait' is a number of seconds from 0 to {MOST_WAIT_S:g}, not {text[:32]!r}")
    return wait_s

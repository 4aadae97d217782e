"""Admission of connections, within the limits of their user and of this replica."""

from heliograph.cluster.directory import Directory
from heliograph.cluster.reading import Reading
from heliograph.errors import ConnectionLimit
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.settings import LimitSettings


class Admission:
    """Register connections, here and in the directory."""

    def __init__(self, hub: Hub, directory: Directory, reading: Reading, limits: LimitSettings) -> None:
        self._hub = hub
        self._directory = directory
        self._reading = reading
        self._limits = limits

    async def connect(self, connection: Connection) -> None:
        """Register the connection, here and in the directory. Messages wait in its outbox until it is opened.

        Once this returns, the connection gets every ephemeral message to the user, whichever replica it is sent on.
        Kept messages start where `listen` or `subscribe` begins.

        Raises:
            ConnectionLimit: the user or this replica has too many connections; this one is not registered.
        """
        if self._hub.connections >= self._limits.connections:
            raise ConnectionLimit(f"this replica holds the {self._limits.connections} connections it may")
        limit = self._limits.connections_per_user
        if 0 < limit <= self._hub.count(connection.user):
            raise ConnectionLimit(f"a user may have {limit} connections")
        self._hub.add(connection)
        try:
            total = await self._directory.hold(connection.user)
        except BaseException:
            self.disconnect(connection)
            raise
        if total is None:
            total = self._hub.count(connection.user)
        if 0 < limit < total:
            self.disconnect(connection)
            raise ConnectionLimit(f"a user may have {limit} connections")

    def disconnect(self, connection: Connection) -> None:
        """Forget the connection, here at once and in the directory soon. May be called more than once."""
        self._reading.leave_all(connection)
        self._hub.remove(connection)
        self._directory.release(connection.user)

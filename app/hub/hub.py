"""Who is connected to this replica, and handing them what is theirs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.hub.connection import Connection
from app.protocol.codes import CloseCode
from app.protocol.events import Event, Message
from app.protocol.publication import Publication
from app.telemetry import Telemetry

if TYPE_CHECKING:
    from app.hub.frames import Encoding


class Hub:
    """This replica's connections by user. Nothing in here knows of other replicas."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._by_user: dict[str, set[Connection]] = {}
        self._connections = 0

    @property
    def connections(self) -> int:
        return self._connections

    @property
    def users(self) -> int:
        return len(self._by_user)

    def user_ids(self) -> Iterator[str]:
        return iter(self._by_user)

    def __iter__(self) -> Iterator[Connection]:
        """All connections, as they were when the iteration began."""
        return iter([connection for mine in self._by_user.values() for connection in mine])

    def count(self, user_id: str) -> int:
        """How many connections the user has here."""
        return len(self._by_user.get(user_id, ()))

    def add(self, connection: Connection) -> None:
        mine = self._by_user.setdefault(connection.user, set())
        if connection not in mine:
            mine.add(connection)
            self._connections += 1

    def remove(self, connection: Connection) -> bool:
        """Forget the connection; False if it was not here."""
        mine = self._by_user.get(connection.user)
        if mine is None or connection not in mine:
            return False
        mine.remove(connection)
        self._connections -= 1
        if not mine:
            del self._by_user[connection.user]
        return True

    def deliver(self, user_id: str, publication: Publication) -> int:
        """Hand the publication to every connection the user has here; how many took it.

        Encoded once for each encoding, not once for each connection. A connection whose outbox is over is closed
        and dropped at once, and what it did not read is not offered to anyone else.
        """
        mine = self._by_user.get(user_id)
        if mine is None:
            return 0
        event = Message.of(publication)
        frames: dict[Encoding, bytes] = {}
        overflowed: list[tuple[Connection, CloseCode]] = []
        closed = 0  # their transports tidy up a moment later
        for connection in mine:
            if connection.outbox.closed:
                closed += 1
                continue
            frame = frames.get(connection.encoding)
            if frame is None:
                frame = frames[connection.encoding] = connection.encoding.frame(event)
            if (code := connection.outbox.offer(frame)) is not None:
                overflowed.append((connection, code))
        taken = len(mine) - len(overflowed) - closed
        self._telemetry.messages_out += taken
        for connection, code in overflowed:
            self._drop(connection, code)
        return taken

    def tell(self, connection: Connection, event: Event) -> None:
        """Hand one event to one connection."""
        if (code := connection.offer(event)) is not None:
            self._drop(connection, code)

    def _drop(self, connection: Connection, code: CloseCode) -> None:
        """Close a connection that cannot take what is its own, and forget it."""
        self._telemetry.slow_closes += 1
        self.remove(connection)
        connection.close(code, "the connection did not read what was sent to it")

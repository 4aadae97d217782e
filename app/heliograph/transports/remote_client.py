"""The client at the other end of one connection, as the parts that serve it share it: what it is told, and how."""

import logging
import time
from typing import NoReturn

from heliograph.auth.authenticator import Identity
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.errors import ErrorCode, HeliographError
from heliograph.hub.connection import Connection
from heliograph.protocol.actions import Reject
from heliograph.protocol.budget import REFUSED_BYTES, Intake
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Event
from heliograph.protocol.operations import RequestId
from heliograph.protocol.session import Session
from heliograph.telemetry import Telemetry

logger = logging.getLogger(__name__)

# A client may invent any number of other close codes.
KNOWN_CODES = frozenset(CloseCode) | frozenset(range(1000, 1016))


class Disconnected(Exception):
    """The connection has ended, and why: its endpoint has nothing more to do."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class RemoteClient:
    """Tell a client what it is to know, count what it costs, and turn it away."""

    def __init__(
        self,
        session: Session,
        connection: Connection,
        manager: ConnectionManager,
        intake: Intake,
        telemetry: Telemetry,
    ) -> None:
        self.session = session
        self.connection = connection
        self.registered = False  # in the hub and in the directory
        self.refusals = 0  # refusals that the reader has not slowed down for yet
        self._manager = manager
        self._intake = intake
        self._telemetry = telemetry
        self._pace = intake.new()  # of reading; the user's, once that is known

    @property
    def about(self) -> dict[str, str | None]:
        """Return the fields that a log line has about the connection."""
        return {"user": self.connection.user or None, "connection": self.connection.id}

    def identified(self, identity: Identity) -> None:
        """Note who the client is: what it writes is read at its user's pace from now on."""
        self.connection.user = identity.user
        self.connection.info = identity.info
        self.connection.device = self.session.connect.device or ""
        self.connection.by_client = self.session.connect.by_client
        self._pace = self._intake.of(identity.user, time.monotonic())

    def owed_s(self, size: int, frames: int) -> float:
        """Count `size` bytes of the client in so many frames. Return for how long (s) to read nothing more of it.

        Refusals since the last call count too.
        """
        counts = size + REFUSED_BYTES * self.refusals + self._intake.frame_bytes * frames
        self.refusals = 0
        return self._pace.take(counts, time.monotonic())

    def send(self, event: Event) -> None:
        """Send the client an event."""
        self._manager.send_event(self.connection, event)

    def answer(self, answer: Event | Reject) -> None:
        """Send the client the answer to an operation.

        Raises:
            Disconnected: the answer is a refusal that closes the connection.
        """
        if isinstance(answer, Reject):
            self.refuse(answer)
        else:
            self._manager.send_event(self.connection, answer)

    def refuse(self, refusal: Reject) -> None:
        """Tell the client what was wrong.

        Raises:
            Disconnected: the refusal closes the connection.
        """
        self.refusals += 1
        self._telemetry.frames_refused[refusal.code] += 1
        self._manager.send_error(self.connection, refusal.code, refusal.message, refusal.request_id, refusal.number)
        if refusal.close is not None:
            self.connection.close(refusal.close, refusal.message)
            raise Disconnected(refusal.code, refusal.message)

    def reject(
        self,
        error: HeliographError,
        close: int,
        request_id: RequestId | None = None,
        number: int | None = None,
    ) -> NoReturn:
        """Refuse the client: say why, and close."""
        self.refuse(Reject(error.code, str(error), request_id, close, number))
        raise Disconnected(error.code, str(error))

    def turn_away(self, close: CloseCode, code: ErrorCode, message: str) -> NoReturn:
        """Close the connection without an error before it."""
        self.connection.close(close, message)
        raise Disconnected(code, message)

    def ended(self, code: int | None) -> None:
        """Count the end of the connection. `code`: the other side's close code, if it was not closed here."""
        code = self.connection.close_code or code
        logger.debug("ended (%s)", code, extra=self.about)
        if code is not None:
            known = int(code) if code in KNOWN_CODES else 0
            self._telemetry.closes[known] = self._telemetry.closes.get(known, 0) + 1

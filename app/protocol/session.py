"""The rules of one connection: typed operations in, what to do about them out. No I/O, no wire format, no time.

The driver (a transport) reads frames, has its codec make operations of them, gives those to `Session.receive` and
carries out the action it gets back. A second transport or codec needs a driver, never a second set of rules.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from msgspec import UNSET, UnsetType

from app.errors import BadUserId, ErrorCode
from app.protocol.codes import CloseCode
from app.protocol.events import Connected, Pong
from app.protocol.identity import check_user_id
from app.protocol.operations import Connect, Operation, Ping, RequestId, Send


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Find out whether these credentials are good, then call `Session.identified`, or close."""

    token: str | None
    user: str | None


@dataclass(frozen=True, slots=True)
class Route:
    """Hand the message to the router and answer with what it says."""

    operation: Send


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell the client."""

    event: Pong


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the client what was wrong; the connection stays open unless there is a close code."""

    code: ErrorCode
    message: str
    request_id: RequestId | None = None
    close: CloseCode | None = None


Action = Authenticate | Route | Answer | Refuse


class _State(Enum):
    NEW = auto()  # nobody knows who this is; only `connect` is accepted
    CONNECTING = auto()  # the driver is finding out
    CONNECTED = auto()


class Session:
    """The protocol state of one connection."""

    def __init__(self, session_id: str, replica: str, ping_interval_s: int) -> None:
        self.id = session_id
        self.user: str | None = None
        self._replica = replica
        self._ping_interval_s = ping_interval_s
        self._state = _State.NEW
        self._connect_id: RequestId | None = None

    def receive(self, operation: Operation) -> Action:
        """Decide on one operation of the client."""
        match operation:
            case Ping(id=request_id):
                return Answer(Pong(id=echo(request_id)))
            case Connect():
                return self._connect(operation)
            case Send():
                return self._send(operation)
            case _:
                assert_never(operation)

    def identified(self, user: str) -> Connected:
        """The client is `user`: the greeting that opens the conversation."""
        self.user = user
        self._state = _State.CONNECTED
        return Connected(
            user=user,
            session=self.id,
            replica=self._replica,
            cursor="",
            ping=self._ping_interval_s,
            id=echo(self._connect_id),
        )

    def _connect(self, operation: Connect) -> Action:
        if self._state is not _State.NEW:
            return Refuse(ErrorCode.BAD_REQUEST, "this connection has said 'connect' already", operation.id)
        self._state = _State.CONNECTING
        self._connect_id = operation.id
        return Authenticate(operation.token, operation.user)

    def _send(self, operation: Send) -> Action:
        if self._state is not _State.CONNECTED:
            return Refuse(
                ErrorCode.BAD_REQUEST,
                "the first frame must be 'connect'",
                operation.id,
                close=CloseCode.BAD_REQUEST,
            )
        try:
            check_user_id(operation.to)
        except BadUserId as error:
            return Refuse(error.code, f"'to': {error}", operation.id)
        return Route(operation)


def echo(request_id: RequestId | None) -> RequestId | UnsetType:
    """A request's `id` as its answer carries it: left out where the client gave none."""
    return UNSET if request_id is None else request_id

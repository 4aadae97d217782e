"""What the transports have in common: a connection from its opening to its end."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import msgspec

from heliograph.client.connection.credentials import NoCredentials
from heliograph.client.connection.dispatcher import Place
from heliograph.client.connection.events import Frame, Transport
from heliograph.client.connection.receipts import Said
from heliograph.protocol.codes import is_final

# Close codes that the client uses itself; those from 3000 on mean what they mean when the server says them.
NORMAL: Final = 1000
ABNORMAL: Final = 1006  # it failed without a close frame
TOO_LARGE: Final = 1009  # a frame was
EXPIRED: Final = 3005
NO_PONG: Final = 3012
INVALID_TOKEN: Final = 3500
BAD_REQUEST: Final = 3501
FORBIDDEN: Final = 3507

# What a refusal over HTTP means, as the close code with which a socket would have been refused.
CODE_OF_STATUS: Final = {400: BAD_REQUEST, 401: INVALID_TOKEN, 403: FORBIDDEN}


def may_reconnect(code: int) -> bool:
    """Return whether a new attempt may end differently: 3500-3999 and 4500-4999 mean that it would not."""
    return not is_final(code)


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a connection ended. `unasked`: there were no credentials, so that the server was never asked. `error`: the
    server's code for a request that it has refused."""

    code: int
    reason: str
    unasked: bool = False
    error: str | None = None

    @classmethod
    def without_credentials(cls, error: Exception) -> Self:
        """Return why, if the program has given no credentials: for good, or because its own function failed."""
        if isinstance(error, NoCredentials):
            return cls(INVALID_TOKEN, str(error), unasked=True)
        return cls(ABNORMAL, f"no credentials: {type(error).__name__}: {error}", unasked=True)


class LinkEnded(Exception):
    """Raised inside a link to end it."""

    def __init__(self, closed: Closed) -> None:
        super().__init__(closed.reason)
        self.closed = closed


class Handlers(Protocol):
    """Whom a link tells what happens. After its end, and after `close`, it tells nobody."""

    def on_connected(self, link: "Link", hello: Frame) -> None:
        """The handshake is done; `hello` is the server's `connected`."""

    def on_moved(self, link: "Link", replica: str) -> None:
        """Another replica serves it now."""

    def on_frame(self, link: "Link", frame: Frame) -> None:
        """Any other frame, except `pong`."""

    def on_garbled(self, link: "Link", error: Exception) -> None:
        """What came is not a JSON object."""

    def on_doubted(self, link: "Link") -> None:
        """It gives no sign of life; it may still come."""

    def on_closed(self, link: "Link", closed: Closed) -> None:
        """It has ended, and not by `close`."""

    def place(self, link: "Link") -> Place:
        """Return where it continues, as of now."""


class Link(Protocol):
    """One connection. It never reconnects: its owner decides that."""

    transport: Transport
    number: int
    replica: str  # who serves it; empty until that is known
    takes_frames: bool  # whether `send` may be called

    def start(self) -> asyncio.Task[None]:
        """Begin to connect. The task has ended when nothing of the connection is left."""

    def send(self, frame: bytes) -> None:
        """Write one frame, after those before it."""

    async def received(self, cursor: str, device: str | None) -> Said:
        """Say what the program has taken, where `send` may not be called."""

    def probe(self, wait_s: float) -> None:
        """Ask for a sign of life; without one within `wait_s` it has ended."""

    def close(self) -> None:
        """End it from this side."""


def decode(text: str | bytes) -> Frame:
    """Decode one frame of the server.

    Raises:
        ValueError: it is not a JSON object with a type.
    """
    frame: Any = msgspec.json.decode(text)
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise ValueError("the server sent what is not a frame: a JSON object with a type")
    return frame


def refusal(status: int, body: bytes) -> Closed:
    """Return what a response that is not a success means.

    Only what the server itself has said can be for good: anything else may be a proxy's opinion of the transport.
    """
    try:
        error = msgspec.json.decode(body)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, KeyError, IndexError):
        return Closed(ABNORMAL, f"HTTP status {status}")
    return Closed(CODE_OF_STATUS.get(status, ABNORMAL), message, error=code)

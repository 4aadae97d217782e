"""A request on its way through a `DirectEndpoint`, in the place of uvicorn's cycle of a request and a response."""

from collections.abc import Callable
from typing import Any, Final

from heliograph.transports.direct import DirectEndpoint

_HEAD: Final = b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\nx-content-type-options: nosniff\r\n"


class ResponseHead:
    """The first lines of a response. They change once a second, with the date, so they are made once a second."""

    def __init__(self) -> None:
        self._made_of: list[tuple[bytes, bytes]] | None = None
        self._head = b""

    def with_body(
        self, default_headers: list[tuple[bytes, bytes]], body: bytes, fields: bytes, *, keep_alive: bool
    ) -> bytes:
        """Return a whole response. `fields`: further header fields."""
        if default_headers is not self._made_of:
            self._made_of = default_headers
            self._head = _HEAD % b"".join([b"%b: %b\r\n" % field for field in default_headers])
        close = b"" if keep_alive else b"connection: close\r\n"
        return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (self._head, fields, close, len(body), body)


class _NobodyWaits:
    """The event of a cycle that no task waits for."""

    def set(self) -> None:
        """Do nothing."""


class DirectCycle:
    """A request until it is answered. The attributes are those that uvicorn's protocol reads and sets."""

    __slots__ = (
        "_on_answer",
        "body",
        "disconnected",
        "endpoint",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(
        self,
        endpoint: DirectEndpoint,
        scope: Any,
        on_answer: Callable[["DirectCycle", bytes], object],
        *,
        keep_alive: bool,
    ) -> None:
        self.endpoint = endpoint
        self.scope = scope
        self.keep_alive = keep_alive  # uvicorn takes it away when it stops
        self.body = bytearray()  # it may come in many small pieces
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS
        self._on_answer = on_answer

    def begin(self) -> bool:
        """Hand the whole request over; False if the application has to answer it."""
        return self.endpoint.begin(bytes(self.body), self.answer)

    def answer(self, body: bytes) -> None:
        """Send the response, unless the client has gone."""
        self.response_started = self.response_complete = True
        if not self.disconnected:
            self._on_answer(self, body)


class DirectGetCycle:
    """The same for a request of a `DirectGet`, which may take long to answer."""

    __slots__ = (
        "_on_answer",
        "disconnected",
        "is_answered",
        "keep_alive",
        "message_event",
        "more_body",
        "on_leave",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(
        self, scope: Any, on_answer: Callable[["DirectGetCycle", bytes | None, bytes], object], *, keep_alive: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS
        self.is_answered = False  # here, or by the application
        self.on_leave: Callable[[], object] | None = None  # to be called if the client leaves before the answer
        self._on_answer = on_answer

    def answer(self, body: bytes | None, fields: bytes) -> None:
        """Send the response, unless the client has gone. Without a body the application has to answer."""
        self.is_answered, self.on_leave = True, None
        self.response_started = self.response_complete = body is not None
        if not self.disconnected:
            self._on_answer(self, body, fields)


_NOBODY_WAITS: Final = _NobodyWaits()

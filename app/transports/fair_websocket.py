"""uvicorn's WebSocket protocol, so that one client who sends without end does not keep the others waiting.

uvicorn parses all that a read has brought (256 KiB, which may be tens of thousands of frames) in one go, and answers
each ping.
"""

from typing import Final

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from app.protocol.codes import CloseCode
from app.protocol.token_bucket import TokenBucket

SLICE_BYTES: Final = 4096  # of what a read has brought, parsed at a time: then it is the others' turn
FAREWELL_BYTES: Final = 65_536  # what is still read of a client that was closed, for its own close frame
CONTROL_FRAMES_PER_SECOND: Final = 10.0
MOST_CONTROL_FRAMES: Final = 100.0  # in one go
MOST_FRAGMENTS: Final = 1024  # of one message


class FairWebSocket(WebSocketsSansIOProtocol):
    """Takes what a client sends in slices, and no more control frames than somebody could need."""

    _control: TokenBucket | None = None  # for control frames, from the first on
    _unparsed: bytes = b""  # while there is any, nothing more is read
    _slice_due = False
    _said_after_close = 0  # bytes

    def close(self, code: CloseCode, reason: str) -> None:
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        if len(data) <= SLICE_BYTES and not self._unparsed:
            self._parse(data)
            return
        self._unparsed += data
        self.transport.pause_reading()
        if not (self._slice_due or self.read_paused):
            self._parse_slice()

    async def receive(self) -> ASGIReceiveEvent:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.resume_parsing()
        return message

    def resume_parsing(self) -> None:
        """Go on where reading was paused."""
        if not self._unparsed:
            self.transport.resume_reading()
        elif not self._slice_due:
            self._slice_due = True
            self.loop.call_soon(self._parse_slice)

    def handle_ping(self) -> None:
        if self.close_sent:
            self.conn.data_to_send()  # the pong: nothing follows a close frame
            return
        super().handle_ping()
        self._count_control_frame()

    def handle_pong(self, event: Frame) -> None:
        super().handle_pong(event)
        self._count_control_frame()

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        if len(self.frames) > MOST_FRAGMENTS:
            self.frames = []
            self.close(CloseCode.TOO_MANY_ERRORS, f"a message may have {MOST_FRAGMENTS} fragments")

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed = b""
        super().connection_lost(exc)

    def _parse_slice(self) -> None:
        """One slice now; the next when the application has taken what was in it, or in the loop's next turn."""
        self._slice_due = False
        data, self._unparsed = self._unparsed[:SLICE_BYTES], self._unparsed[SLICE_BYTES:]
        if self.transport.is_closing():
            self._unparsed = b""
        elif self._parse(data) and not self.read_paused:
            self.resume_parsing()

    def _parse(self, data: bytes) -> bool:
        """False if this client has been closed, and goes on all the same: it is not listened to until it is cut."""
        if self.close_sent and self.conn.parser_exc is None:
            self._said_after_close += len(data)
            if self._said_after_close > FAREWELL_BYTES:
                self._unparsed = b""
                self.transport.pause_reading()
                return False
        super().data_received(data)
        return True

    def _count_control_frame(self) -> None:
        now = self.loop.time()
        if self._control is None:
            self._control = TokenBucket(CONTROL_FRAMES_PER_SECOND, now, MOST_CONTROL_FRAMES)
        if not self._control.take(now):
            self.close(CloseCode.TOO_MANY_ERRORS, f"more than {CONTROL_FRAMES_PER_SECOND:g} control frames a second")

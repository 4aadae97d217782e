"""The WebSocket class that uvicorn is given: frames go out as they are, text comes in without a detour."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol, Side, State

from app.hub.outbox import Outbox
from app.protocol.codes import CloseCode
from app.protocol.token_bucket import TokenBucket
from app.server.frame_splitter import FrameSplitter
from app.transports.websocket import SERVER_SOCKET, Receiver

CLOSE_REASON_BYTES = 123  # RFC 6455 section 5.5: a control frame has 125, two of them are the code
CLOSE_TIMEOUT_S = 5.0  # how long a peer has to answer a close frame before its socket is cut
FAREWELL_BYTES = 65_536  # what is still read of a client that was closed, for its own close frame
DISCARD_S = 1.0  # how long what a peer still sends is read and thrown away after it broke the protocol
PETTY_PER_SECOND = 10.0  # control frames and small fragments, which are no operations and cost as much
MOST_PETTY = 100.0  # in one go
SMALL_BYTES = 64


class _Nowhere:
    """Stands in for uvicorn's queue of events and its flow control, which an attached socket does not use."""

    def put_nowait(self, event: object) -> None: ...

    def clear(self) -> None: ...

    def set(self) -> None: ...


_NOWHERE: Final[Any] = _Nowhere()


class FrameWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also lets the application have the socket to itself.

    It offers itself in the ASGI scope as a `ServerSocket`. Once a receiver is attached, each text of the client is
    handed to it in the turn of the loop in which it was read: no queue, no task, no `await`. The application may
    return then, so that an idle socket costs little more than itself. Handshake, fragments, ping, pong and the
    closing handshake stay with uvicorn and websockets.

    Who sends without end does not keep the others waiting: control frames and small fragments, which are no
    operations, are limited here, and a client that was closed is hardly listened to.
    """

    _petty: TokenBucket | None = None  # from the first such frame on
    _said_after_close = 0  # bytes
    _is_broken = False  # what comes cannot be understood any more

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._parser: Protocol | None = None
        self._outbox: Outbox | None = None
        self._receiver: Receiver | None = None
        self._splitter: FrameSplitter | None = None
        super().__init__(config, server_state, app_state, _loop)

    @property
    def conn(self) -> Any:
        """What knows RFC 6455. An attached socket has one only while it is needed: hardly ever."""
        if self._parser is None:
            self._parser = Protocol(Side.SERVER, state=State.OPEN, max_size=self.config.ws_max_size)
        return self._parser

    @conn.setter
    def conn(self, parser: Protocol) -> None:
        self._parser = parser

    # -- for the application

    def attach(self, outbox: Outbox, receiver: Receiver) -> None:
        """See `ServerSocket`."""
        self._outbox = outbox
        self._receiver = receiver
        self._splitter = FrameSplitter(receiver.receive_text, self._receive_frame, self.config.ws_max_size)
        # What the handshake needed. All of it together is larger than what an idle socket needs from here on.
        self.queue = self.writable = _NOWHERE
        self._parser = None
        del self.scope, self.request, self.response

    @property
    def write(self) -> Callable[[list[bytes]], None]:
        """The transport's own method: nothing of Python is in between. The outbox ends before the transport does."""
        return self.transport.writelines

    def close(self, code: CloseCode, reason: str) -> None:
        """Say goodbye, and cut the socket if the peer does not answer: one that does not read never would."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.conn.send_close(code, reason.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore"))
        self._await_farewell(CLOSE_TIMEOUT_S)
        self._end(code)

    def pause_reading(self) -> None:
        if not self.read_paused and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # -- from uvicorn

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][SERVER_SOCKET] = self  # type: ignore[assignment] # not JSON, and meant so

    async def run_asgi(self) -> None:
        """As uvicorn does, but an application that has attached a receiver may return before the socket ends."""
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            self.logger.exception("the application failed")
            self.send_500_response()
        else:
            if not self.handshake_complete:
                self.logger.error("the application returned before the handshake was complete")
                self.send_500_response()
        if self._splitter is None and self.close_timer is None:
            self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # refused, and rightly so: uvicorn would log that it was never completed

    def data_received(self, data: bytes) -> None:
        if self._splitter is None:
            super().data_received(data)
        elif not self.close_sent:
            self._splitter.feed(data)
        elif not self._is_broken:
            self._said_after_close += len(data)
            if self._said_after_close <= FAREWELL_BYTES:
                self._splitter.feed(data)
            else:
                self.transport.pause_reading()  # until it is cut

    def _receive_frame(self, frame: bytes) -> None:
        """Anything but a text in one frame."""
        if self.close_sent and frame[0] & 0x0F != Opcode.CLOSE:
            return
        if _is_petty(frame) and not self._may_be_petty():
            text = f"more than {PETTY_PER_SECOND:g} control frames or fragments under {SMALL_BYTES} bytes a second"
            self.close(CloseCode.TOO_MANY_ERRORS, text)
            return
        super().data_received(frame)
        parser = self._parser
        if parser is not None and parser.state is State.OPEN and parser.current_size is None:
            self._parser = None  # at rest between two messages

    def _may_be_petty(self) -> bool:
        now = self.loop.time()
        if self._petty is None:
            self._petty = TokenBucket(PETTY_PER_SECOND, now, MOST_PETTY)
        return self._petty.take(now)

    def send_receive_event_to_app(self) -> None:
        """A message of several frames is complete, or is no text."""
        if self._splitter is None:
            super().send_receive_event_to_app()
            return
        data, self.frames = b"".join(self.frames), []
        if self._receiver is None:
            return
        if self.curr_msg_data_type != "text":
            self._receiver.receive_binary(data)
            return
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self.conn.fail(1007, f"{error.reason} at position {error.start}")
            self.handle_parser_exception()
        else:
            self._receiver.receive_text(text)

    def handle_parser_exception(self) -> None:
        """What came is against the protocol, or too large (1009). The close frame is on its way out already.

        The rest of it is read and thrown away: a socket that is closed with unread bytes is reset, and the reset
        may overtake the close frame.
        """
        if self.close_sent or self.conn.close_sent is None:
            return
        # The peer's own close frame cannot be read any more, so there is only the time to go by.
        self._is_broken = True
        self._await_farewell(DISCARD_S)
        self._end(self.conn.close_sent.code)

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._end(1005 if self.conn.close_rcvd is None else self.conn.close_rcvd.code)

    def shutdown(self) -> None:
        super().shutdown()
        self._end(1012)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._end(1006)
        if self._outbox is not None:
            self._outbox.close(CloseCode.INTERNAL_ERROR, "the socket is gone")  # so that nobody waits for it to drain

    def keepalive_timeout(self) -> None:
        self.close(CloseCode.NO_PONG, "no pong came back")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._outbox is not None:
            self._outbox.pause(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._outbox is not None:
            self._outbox.resume()

    def _await_farewell(self, timeout_s: float) -> None:
        self.stop_keepalive()
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.resume_reading()
        self.close_timer = self.loop.call_later(timeout_s, self.transport.abort)

    def _end(self, code: int) -> None:
        """Nothing more that the client says counts. Its receiver is told so, once, in a turn of its own."""
        if self._splitter is not None:
            self._splitter.on_text = _ignore
        if self._outbox is not None:
            self._outbox.abandon()  # what is written from here on would follow the close frame
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self.loop.call_soon(receiver.lost, code)


def _is_petty(frame: bytes) -> bool:
    if frame[0] & 0x0F in (Opcode.PING, Opcode.PONG):
        return True
    is_last = frame[0] & 0x80
    return not is_last and len(frame) > 1 and frame[1] & 0x7F < SMALL_BYTES


def _ignore(text: str) -> None: ...

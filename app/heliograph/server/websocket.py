"""Our WebSocket on uvicorn's transport: it writes prepared frames, and passes each text on directly."""

import asyncio
import os
from collections.abc import Callable

from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, Side, State
from websockets.protocol import Protocol as Parser
from websockets.speedups import apply_mask

from heliograph.deadlines import Deadlines
from heliograph.hub.deflate import Deflater
from heliograph.hub.outbox import Outbox
from heliograph.protocol.codes import CloseCode, close_reason
from heliograph.protocol.token_bucket import TokenBucket
from heliograph.server.frame_splitter import FrameSplitter
from heliograph.server.opening import PendingHandshake
from heliograph.transports.direct import DirectSocket
from heliograph.transports.server_socket import SERVER_SOCKET, Receiver

CLOSE_TIMEOUT_S = 5.0  # how long a peer may take to answer a close frame before its socket is cut
READ_AFTER_CLOSE_BYTES = 65_536  # still read from a client after our close frame, to find its own
DISCARD_S = 1.0  # how long data is read and thrown away after a peer violated the protocol
CONTROL_FRAMES_PER_SECOND = 10.0  # control frames and small fragments: they are not operations, but cost as much
MOST_CONTROL_FRAMES = 100.0  # of them in a burst
SMALL_BYTES = 64

_PING_HEAD = b"\x89\x04"  # final, opcode 9, four bytes
_PONG_HEAD = b"\x8a\x84"  # final, opcode 10, four bytes under a mask
_NO_CODE, _LOST, _BAD_UTF8, _RESTART = 1005, 1006, 1007, 1012  # RFC 6455 section 7.4.1, and its registry


class Sockets:
    """What all sockets of one server share: the application, the limits, and the times of pings."""

    def __init__(
        self,
        app: ASGIApp,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        *,
        max_bytes: int,
        ping_interval_s: float,
        ping_timeout_s: float,
    ) -> None:
        self.app = app
        self.state = server_state
        self.loop = loop
        self.max_bytes = max_bytes
        self.pings = Deadlines(loop, ping_interval_s, FrameWebSocket.ping)
        self.pongs = Deadlines(loop, ping_timeout_s, FrameWebSocket.on_pong_timeout)

    def open(
        self, transport: asyncio.Transport, scope: Scope, accept: bytes, endpoint: DirectSocket | None = None
    ) -> "FrameWebSocket":
        """Make a socket of the transport, and let the endpoint, or else the application, answer the handshake.

        `accept` is the value that accepts it.
        """
        socket, extensions = self._new_socket(transport, scope)
        transport.set_protocol(socket)
        opening = PendingHandshake(socket, accept, extensions, self.state.default_headers)
        if endpoint is not None and opening.begin(endpoint, scope):
            return socket
        scope["extensions"] = {"websocket.http.response": {}, SERVER_SOCKET: socket}
        task = self.loop.create_task(opening.run(self.app, scope), name="websocket-open")
        self.state.tasks.add(task)
        task.add_done_callback(self.state.tasks.discard)
        return socket

    def _new_socket(self, transport: asyncio.Transport, scope: Scope) -> "tuple[FrameWebSocket, bytes | None]":
        """Return a socket for this handshake, and the WebSocket extensions that it uses if it is accepted."""
        return FrameWebSocket(self, transport), None


class FrameWebSocket(asyncio.Protocol):
    """A `ServerSocket` for the application, and a protocol with a `shutdown` for uvicorn.

    The receiver gets each text in the event-loop iteration in which it was read: no queue, no task, no `await`. The
    parser of `websockets` handles fragments, ping, pong, the closing handshake and violations of the protocol. It is
    created when such a frame arrives, and dropped afterwards. An idle socket has no parser, no timer and no
    coroutine.

    A client that sends without end must not delay the others. So this class limits control frames and small
    fragments, which are not operations, and reads little from a client after its close.
    """

    __slots__ = (
        "_control_frames",
        "_early",
        "_ended",
        "_fragments",
        "_is_broken",
        "_is_open",
        "_is_text",
        "_outbox",
        "_parser",
        "_ping",
        "_read_after_close",
        "_read_paused",
        "_receiver",
        "_sockets",
        "_splitter",
        "_timer",
        "transport",
    )

    def __init__(self, sockets: Sockets, transport: asyncio.Transport) -> None:
        self._sockets = sockets
        self.transport = transport
        self._outbox: Outbox[bytes] | None = None
        self._receiver: Receiver | None = None
        self._splitter: FrameSplitter | None = None
        self._parser: Parser | None = None
        self._early = b""  # bytes that arrived before the application attached
        self._fragments: list[bytes] = []
        self._is_text = False
        self._ping: bytes | None = None  # payload that the pong must return
        self._control_frames: TokenBucket | None = None  # created with the first such frame
        self._read_paused = False
        self._is_open = False  # the handshake is done
        self._ended: int | None = None  # the close code, once the socket has ended
        self._read_after_close = 0  # bytes
        self._is_broken = False  # the parser has failed, and accepts no more data
        self._timer: asyncio.TimerHandle | None = None  # cuts a peer that does not answer the close frame
        sockets.state.connections.add(self)  # type: ignore[arg-type] # to uvicorn one of its own; it calls `shutdown`

    # -- for the application

    @property
    def attached(self) -> bool:
        return self._splitter is not None

    @property
    def deflater(self) -> Deflater | None:
        """See `ServerSocket`."""
        return None

    def opened(self) -> None:
        self._is_open = True
        if self._ended is None:  # it may have been lost while somebody decided about it
            self._sockets.pings.put(self)

    def attach(self, outbox: Outbox[bytes], receiver: Receiver) -> None:
        """See `ServerSocket`."""
        self._splitter = self._new_splitter(receiver)
        if self._ended is not None:
            outbox.abandon()
            self._sockets.loop.call_soon(receiver.lost, self._ended)
            return
        self._outbox = outbox
        self._receiver = receiver
        if self._early:
            self._sockets.loop.call_soon(self._splitter.feed, self._early)
            self._early = b""

    def _new_splitter(self, receiver: Receiver) -> FrameSplitter:
        return FrameSplitter(receiver.receive_text, self._receive_frame, self._sockets.max_bytes)

    @property
    def write(self) -> Callable[[list[bytes]], None]:
        """The transport's own method, without Python in between. The outbox ends before the transport does."""
        return self.transport.writelines

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and cut the socket if the peer does not answer: one that does not read never would."""
        if self._ended is not None or self.transport.is_closing():
            return
        self._end(code)
        self._get_parser().send_close(code, close_reason(reason))
        self._await_close(CLOSE_TIMEOUT_S)

    def pause_reading(self) -> None:
        if not self._read_paused and not self.transport.is_closing():
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def hang_up(self) -> None:
        """See `ServerSocket`. A peer that does not read what is still to be written is cut."""
        self.transport.close()
        if self._timer is None and self.transport.get_write_buffer_size():
            self._timer = self._sockets.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    # -- from the transport

    def data_received(self, data: bytes) -> None:
        if self._splitter is None:
            self._early += data
            if len(self._early) > self._sockets.max_bytes:
                self.transport.abort()
        elif self._ended is None:
            self._splitter.feed(data)
        else:
            self._read_after_close += len(data) - min(len(data), self._splitter.to_skip)
            if self._read_after_close <= READ_AFTER_CLOSE_BYTES:
                self._splitter.feed(data)
            elif not self._is_broken:
                self.transport.pause_reading()  # until the socket is cut

    def pause_writing(self) -> None:
        if self._outbox is not None:
            self._outbox.pause(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        if self._outbox is not None:
            self._outbox.resume()

    def eof_received(self) -> None:
        """End without a close frame: the peer sends nothing more, not even a pong."""
        self._end(_LOST)
        self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._sockets.state.connections.discard(self)
        self._stop_timer()
        self._end(_LOST)

    # -- from uvicorn

    def shutdown(self) -> None:
        """Close the socket, because the server stops."""
        self._stop_timer()
        if self._is_open and self._ended is None:
            self._end(_RESTART)
            parser = self._get_parser()
            parser.send_close(_RESTART)
            self._flush(parser)
        self.transport.close()

    # -- pings

    def ping(self) -> None:
        self._ping = os.urandom(4)
        self.transport.write(_PING_HEAD + self._ping)
        self._sockets.pongs.put(self)

    def on_pong_timeout(self) -> None:
        self.close(CloseCode.NO_PONG, "no pong came back")

    def _pong(self) -> None:
        """Note that the pong has arrived."""
        self._ping = None
        self._sockets.pongs.take_out(self)
        self._sockets.pings.put(self)

    # -- what is not a text in one frame

    def _receive_frame(self, data: bytes) -> None:
        if self._ended is not None and data[0] & 0x0F != Opcode.CLOSE:
            return
        if data.startswith(_PONG_HEAD) and apply_mask(data[6:], data[2:6]) == self._ping:
            self._pong()  # the only frame of idle sockets, so no parser is created for it
            return
        if _is_control_or_small(data) and not self._has_allowance():
            rate = f"{CONTROL_FRAMES_PER_SECOND:g}"
            text = f"more than {rate} control frames or fragments under {SMALL_BYTES} bytes a second"
            self.close(CloseCode.TOO_MANY_ERRORS, text)
            return
        if self._is_broken:
            self.transport.close()  # the parser accepts no more data, but this is the peer's own close frame
            return
        parser = self._get_parser()
        parser.receive_data(data)
        if parser.parser_exc is not None:
            self._broken(parser, is_close=data[0] & 0x0F == Opcode.CLOSE)
            return
        for event in parser.events_received():
            self._handle(parser, event)
        if parser.state is State.OPEN and parser.current_size is None:
            self._parser = None  # it is between two messages

    def _has_allowance(self) -> bool:
        now = self._sockets.loop.time()
        if self._control_frames is None:
            self._control_frames = TokenBucket(CONTROL_FRAMES_PER_SECOND, now, MOST_CONTROL_FRAMES)
        return self._control_frames.take(now)

    def _handle(self, parser: Parser, event: Event) -> None:
        assert isinstance(event, Frame)  # noqa: S101 - the handshake is over
        match event.opcode:
            case Opcode.PING:
                self._flush(parser)  # the pong
            case Opcode.PONG:
                pass  # a pong without a ping has no meaning
            case Opcode.CLOSE:
                self._closed(parser)
            case Opcode.CONT:
                self._fragments.append(bytes(event.data))
            case kind:
                self._is_text = kind is Opcode.TEXT
                self._fragments = [bytes(event.data)]
        if event.fin and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._complete(parser)

    def _complete(self, parser: Parser) -> None:
        """Handle a message of several frames that is complete, or is not text."""
        data, self._fragments = b"".join(self._fragments), []
        if self._receiver is None:
            return
        if not self._is_text:
            self._receiver.receive_binary(data)
            return
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            parser.fail(_BAD_UTF8, f"{error.reason} at position {error.start}")
            self._broken(parser, is_close=False)
        else:
            self._receiver.receive_text(text)

    def _closed(self, parser: Parser) -> None:
        """Handle the peer's close frame, or its answer to ours."""
        if self._ended is None:
            self._end(_NO_CODE if parser.close_rcvd is None else parser.close_rcvd.code)
            self._flush(parser)
        self.hang_up()

    def _broken(self, parser: Parser, *, is_close: bool) -> None:
        """Handle data that violates the protocol, or is too large (1009).

        The rest is read and thrown away until the peer answers with a close frame: a socket that is closed with
        unread bytes is reset, and the reset may overtake our close frame. `is_close`: the wrong frame was the close
        frame, so no other will arrive.
        """
        if self._ended is None and parser.close_sent is not None:
            self._is_broken = True
            self._end(parser.close_sent.code)
            self._await_close(DISCARD_S)
        if is_close:
            self.transport.close()

    def _get_parser(self) -> Parser:
        if self._parser is None:
            self._parser = self._new_parser()
        return self._parser

    def _new_parser(self) -> Parser:
        return Parser(Side.SERVER, state=State.OPEN, max_size=self._sockets.max_bytes)

    def _flush(self, parser: Parser) -> None:
        """Write the parser's output."""
        self.transport.write(b"".join(parser.data_to_send()))

    # -- the end

    def _await_close(self, timeout_s: float) -> None:
        self._flush(self._get_parser())
        self.resume_reading()
        self._timer = self._sockets.loop.call_later(timeout_s, self.transport.abort)

    def _end(self, code: int) -> None:
        """End the socket: ignore further frames, and tell the receiver once, in the next event-loop iteration."""
        if self._ended is not None:
            return
        self._ended = code
        self._sockets.pings.take_out(self)
        self._sockets.pongs.take_out(self)
        if self._splitter is not None:
            self._splitter.on_text = _ignore
        if self._outbox is not None:
            self._outbox.abandon()  # anything written from here on would follow the close frame
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._sockets.loop.call_soon(receiver.lost, code)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _ignore(text: str) -> None: ...


def _is_control_or_small(frame: bytes) -> bool:
    if frame[0] & 0x0F in (Opcode.PING, Opcode.PONG):
        return True
    is_last = frame[0] & 0x80
    return not is_last and len(frame) > 1 and frame[1] & 0x7F < SMALL_BYTES

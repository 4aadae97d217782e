"""uvicorn's HTTP protocol with our sockets, and with limits on the size and the time of requests."""

import asyncio
import logging
import weakref
from collections import deque
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr, is_ssl
from uvicorn.server import ServerState

from heliograph.deadlines import Deadlines
from heliograph.hub.deflate import Deflaters
from heliograph.server.compressed_websocket import CompressedSockets
from heliograph.server.direct import DirectCycle, DirectGetCycle, ResponseHead
from heliograph.server.forwarded import Believer
from heliograph.server.handshake import BadHandshake, accept_of, refusal
from heliograph.server.heartbeat import Heartbeat
from heliograph.server.stalls import Stalls
from heliograph.server.stream import Streams, TransportStream
from heliograph.server.websocket import Sockets
from heliograph.settings import CompressionSettings, LimitSettings
from heliograph.transports.direct import DirectEndpoints
from heliograph.transports.server_stream import SERVER_STREAM

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

MOST_HEADERS: Final = 256
MOST_PIPELINED: Final = 1000  # requests of one connection that wait behind the one that is being answered
_IDLE, _HEAD, _BODY = range(3)  # the client sends next: a request, more of its head, more of its body
_MAY_BE_LATE = ("GET", "HEAD", "OPTIONS")  # harmless if the client no longer waits for the answer
_OF_A_BODY = (b"content-length", b"transfer-encoding")
_HOP_BY_HOP = (b"upgrade", b"http2-settings")


class _Refused(Exception):
    """Answer the request with this status, and end the connection."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def _refusal_after(error: httptools.HttpParserError) -> _Refused:
    """Return how to answer after an error of the parser. It hides an exception of ours in its context."""
    cause = error.__context__
    if isinstance(cause, _Refused):
        return cause
    is_ours = isinstance(error, httptools.HttpParserCallbackError)
    if cause is None or not is_ours or isinstance(cause, httptools.HttpParserError | UnicodeError):
        return _Refused(HTTPStatus.BAD_REQUEST, "this is no HTTP request")
    logger.error("a request failed with an unexpected error", exc_info=cause)
    return _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, with the objects that the connections of one server share."""

    def __init__(
        self,
        app: ASGIApp,
        limits: LimitSettings,
        heartbeat: Heartbeat,
        direct: DirectEndpoints,
        believe: Believer,
        compression: CompressionSettings,
        **options: Any,
    ) -> None:
        super().__init__(app, ws_max_size=limits.frame_bytes, **options)
        self.limits = limits
        self.compression = compression
        self.heartbeat = heartbeat
        self.direct = direct
        self.believe = believe  # of requests that go past the application
        self.response_head = ResponseHead()
        # Made with the first connection, because they need the event loop, and logging that is set up.
        self._loggers: tuple[logging.Logger, logging.Logger, bool] | None = None
        self._deadlines: tuple[Deadlines[HttpProtocol], Deadlines[HttpProtocol]] | None = None
        self._stalls: Stalls | None = None
        self._sockets: Sockets | None = None
        self._streams: Streams | None = None

    def loggers(self) -> tuple[logging.Logger, logging.Logger, bool]:
        """Return uvicorn's loggers for errors and for requests, and whether the latter has a handler."""
        if self._loggers is None:
            requests = logging.getLogger("uvicorn.access")
            self._loggers = logging.getLogger("uvicorn.error"), requests, requests.hasHandlers()
        return self._loggers

    def deadlines(self, loop: asyncio.AbstractEventLoop) -> "tuple[Deadlines[HttpProtocol], Deadlines[HttpProtocol]]":
        """Return the deadlines for the heads and for the bodies of requests."""
        if self._deadlines is None:
            limits, is_late = self.limits, HttpProtocol.is_late
            self._deadlines = (
                Deadlines(loop, limits.header_timeout_s, is_late),
                Deadlines(loop, limits.body_timeout_s, is_late),
            )
        return self._deadlines

    def stalls(self, loop: asyncio.AbstractEventLoop) -> Stalls:
        """Return what cuts clients that do not read their answers or streams."""
        if self._stalls is None:
            self._stalls = Stalls(loop, self.limits.body_timeout_s)
        return self._stalls

    def sockets(self, app: ASGIApp, server_state: ServerState, loop: asyncio.AbstractEventLoop) -> Sockets:
        """Return the WebSockets of this server."""
        if self._sockets is None:
            open_sockets: Callable[..., Sockets] = Sockets
            if self.compression.enabled:
                open_sockets = partial(CompressedSockets, Deflaters(self.compression.min_bytes))
            self._sockets = open_sockets(
                app,
                server_state,
                loop,
                max_bytes=self.limits.frame_bytes,
                ping_interval_s=self.ws_ping_interval or 0,
                ping_timeout_s=self.ws_ping_timeout or 0,
            )
        return self._sockets

    def streams(self, server_state: ServerState, loop: asyncio.AbstractEventLoop) -> Streams:
        """Return the streamed responses of this server."""
        if self._streams is None:
            keep_alive_s, stalls = self.ws_ping_interval or 0, self.stalls(loop)
            self._streams = Streams(server_state, loop, keep_alive_s=keep_alive_s, stalls=stalls)
        return self._streams


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with our sockets.

    A request's head has a limit in bytes; head and body have time limits, and so has a client that does not read its
    response. An upgrade to anything but a WebSocket is ignored (RFC 9110 section 7.8). A request that changes
    something, and may have waited while the event loop stood still, is refused: nginx has answered its client long
    ago.
    """

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # The same as uvicorn's, which looks up loggers for each connection: that takes longer than all the rest.
        if not config.loaded:
            config.load()
        self.config = config
        self.app = config.loaded_app
        self.loop = _loop or asyncio.get_event_loop()
        self.logger, self.access_logger, self.access_log = config.loggers()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.ws_protocol_class = config.ws_protocol_class
        self.root_path = config.root_path
        self.asgi_version = config.asgi_version
        self.limit_concurrency = config.limit_concurrency
        self.app_state = app_state
        self.timeout_keep_alive_task = None
        self.timeout_keep_alive = config.timeout_keep_alive
        self.server_state = server_state
        self.connections = server_state.connections
        self.tasks = server_state.tasks
        self.transport = self.flow = self.scope = self.headers = self.cycle = None  # type: ignore[assignment] # later
        self.server = self.client = self.scheme = None
        self.pipeline = deque()
        self.expect_100_continue = False
        self._config = config
        self._phase = _IDLE
        self._requests = 0  # requests that have begun
        self._unparsed = 0  # bytes since the parser's last event
        self._is_wanted_upgrade = False  # to a WebSocket, which this connection becomes
        self._is_unwanted_upgrade = False
        self._direct: DirectCycle | None = None  # the request whose body is arriving, if it goes past the application
        # The request that is carried out, or was the last. `cycle` is the newest one, which may wait behind it.
        self._running: RequestResponseCycle | DirectCycle | DirectGetCycle | None = None
        self._heads, self._bodies = config.deadlines(self.loop)
        self._stalls = config.stalls(self.loop)
        self._deadlines: Deadlines[HttpProtocol] | None = None  # the ones that hold this connection
        self._due_request = 0  # the request that the deadline is for

    # -- from the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Do what uvicorn does, but look up no address of ours: the application does not ask for it (ASGI: None)."""
        self.transport = transport
        self.connections.add(self)
        self.flow = FlowControl(transport)
        self.client = get_remote_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self._put(self._heads)

    def connection_lost(self, exc: Exception | None) -> None:
        self._put(None)
        self._stalls.forget(self.transport)
        running, self._running = self._running, None
        super().connection_lost(exc)
        if running is not None and not running.response_complete:  # uvicorn tells the newest request only
            running.disconnected = True
            running.message_event.set()
            if isinstance(running, DirectGetCycle) and running.on_leave is not None:
                running.on_leave()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._feed(data)
        except _Refused as refused:
            self._refuse(refused.status, str(refused))
            return
        if self.parser:  # otherwise it is a WebSocket now
            self._look()

    def _feed(self, data: bytes) -> bytes:
        """Parse the data. Return what is to be parsed after it."""
        self._unparsed += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._is_unwanted_upgrade:
                self._put(None)
                self.handle_websocket_upgrade()
                return b""
            head = self._head_without_upgrade()
            self._is_unwanted_upgrade = False
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            return head + data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            raise _refusal_after(error) from None
        limits = self._config.limits
        if self._unparsed > limits.header_bytes or len(self.headers or ()) > MOST_HEADERS:
            raise self._too_large()
        return b""

    def _look(self) -> None:
        """Start or stop the deadline for the rest of a request."""
        if self._phase == _BODY:
            deadlines: Deadlines[HttpProtocol] | None = self._bodies
        elif self._phase == _HEAD or not self._is_answering:
            deadlines = self._heads
        else:
            deadlines = None
        if deadlines is not self._deadlines or self._requests != self._due_request:
            self._put(deadlines)

    def _put(self, deadlines: "Deadlines[HttpProtocol] | None") -> None:
        if self._deadlines is not None:
            self._deadlines.take_out(self)
        self._deadlines = deadlines
        self._due_request = self._requests
        if deadlines is not None:
            deadlines.put(self)

    def is_late(self) -> None:
        """Handle a request whose rest has not arrived in time."""
        deadlines, self._deadlines = self._deadlines, None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # we do not read, so it is not the client's fault
            self._put(deadlines)
        elif self._phase == _IDLE:
            self._close()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._put(None)
        # No answer is possible before that to an earlier request, or if there is one to this request already.
        if self.cycle and self.cycle.scope is self.scope:  # its head was taken, but not its body
            may_say = not (self.pipeline or self.cycle.response_started)
        else:
            may_say = not self._is_answering
        if may_say and not self.transport.is_closing():
            retry = [(b"retry-after", b"1")] if status is HTTPStatus.SERVICE_UNAVAILABLE else []
            self.transport.write(refusal(status, [*self.server_state.default_headers, *retry], f"{text}\n".encode()))
        self._close()

    # -- what the client does not read

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalls.watch(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stalls.forget(self.transport)

    def eof_received(self) -> None:
        """Let the transport close itself: no other request comes."""
        self._stalls.watch(self.transport)

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self._close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._stalls.watch(self.transport)

    def _close(self) -> None:
        """Close, and do not wait for ever for a client to read what is written, as the transport does."""
        self.transport.close()
        self._stalls.watch(self.transport)

    # -- from the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _HEAD
        self._requests += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take no trailer for a header: none of them has a meaning here."""
        if self._phase == _HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.headers) > MOST_HEADERS or (
            self._unparsed > self._config.limits.header_bytes
            and self._head_bytes() > self._config.limits.header_bytes
        ):
            raise self._too_large()
        if self.transport.is_closing():
            raise _Refused(HTTPStatus.BAD_REQUEST, "a request behind the last one of its connection")
        if len(self.pipeline) >= MOST_PIPELINED:
            text = f"more than {MOST_PIPELINED} requests wait for the answer to one before them"
            raise _Refused(HTTPStatus.TOO_MANY_REQUESTS, text)
        self._unparsed = 0
        self._phase = _BODY
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _Refused(HTTPStatus.NOT_IMPLEMENTED, "this is no proxy: CONNECT is not supported")
            if self._is_answering:
                raise _Refused(HTTPStatus.BAD_REQUEST, "an upgrade behind a request that is not answered yet")
            if self._should_upgrade():
                self._is_wanted_upgrade = True
                return
            self._is_unwanted_upgrade = True  # the parser skips the body: parse again without the upgrade
            return
        if self._config.heartbeat.stood_still and self.parser.get_method().decode() not in _MAY_BE_LATE:
            text = "this replica stood still, the request may have waited for long, and nothing was done; try again"
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, text)
        if not self._goes_past_the_application():
            if not self.url.startswith(b"/") and not httptools.parse_url(self.url).path:
                raise _Refused(HTTPStatus.BAD_REQUEST, "the URL has no path")
            super().on_headers_complete()
            offer = partial(_stream_of, weakref.ref(self), weakref.ref(self.cycle))
            self.scope["extensions"] = {SERVER_STREAM: offer}  # type: ignore[dict-item] # not JSON

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        if self._direct is not None:
            self._direct.body += body
        elif not (self._is_wanted_upgrade or self._is_unwanted_upgrade):
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = _IDLE
        if (direct := self._direct) is not None:
            self._direct = None
            if not direct.begin():
                self._hand_to_application(bytes(direct.body))
        elif not (self._is_wanted_upgrade or self._is_unwanted_upgrade):
            super().on_message_complete()

    @property
    def _is_answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _too_large(self) -> _Refused:
        text = f"more than {self._config.limits.header_bytes} bytes or {MOST_HEADERS} headers before the body"
        return _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{text} (HELIOGRAPH_LIMITS__HEADER_BYTES)")

    def _head_without_upgrade(self) -> bytes:
        """Return the head as if it had not asked for an upgrade."""
        parser = self.parser
        lines = [b"%b %b HTTP/%b" % (parser.get_method(), self.url, parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() not in _HOP_BY_HOP]
                lines.append(b"connection:" + b",".join(kept))
            elif name not in _HOP_BY_HOP:
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # -- requests that go past the application

    def _goes_past_the_application(self) -> bool:
        """Whether an endpoint takes the request from here. What is not an ordinary request is the application's."""
        if self._is_answering or self.expect_100_continue or self.parser.get_http_version() != "1.1":
            return False
        match self.parser.get_method():
            case b"POST":
                return self._is_direct_post()
            case b"GET":
                return self._is_direct_get()
            case _:
                return False

    def _is_direct_post(self) -> bool:
        endpoint = self._config.direct.posts.get(self.url)
        if endpoint is None or not endpoint.admits(self.headers):
            return False
        keep_alive = self.parser.should_keep_alive()
        self._direct = DirectCycle(endpoint, self.scope, self._send_answer, keep_alive=keep_alive)
        self._running = self.cycle = self._direct  # type: ignore[assignment] # it has what uvicorn asks of a cycle
        return True

    def _is_direct_get(self) -> bool:
        path, _, query = self.url.partition(b"?")
        endpoint = self._config.direct.gets.get(path)
        if endpoint is None or any(name in _OF_A_BODY for name, _ in self.headers):
            return False
        scope = self._config.believe({**self.scope, "method": "GET", "query_string": query})
        cycle = DirectGetCycle(self.scope, self._answer_get, keep_alive=self.parser.should_keep_alive())
        self._running = self.cycle = cycle  # type: ignore[assignment] # as above; it may be answered at once
        try:
            on_leave = endpoint.begin(scope, cycle.answer)
        except Exception:
            logger.exception(
                "a request past the application failed with an unexpected error; the application gets it"
            )
            on_leave = None
        if cycle.is_answered:
            return True
        if on_leave is None:
            self.cycle = None  # type: ignore[assignment] # as before the first request
            return False
        cycle.on_leave = on_leave
        return True

    def _answer_get(self, cycle: DirectGetCycle, body: bytes | None, fields: bytes) -> None:
        if body is not None:
            self._send_answer(cycle, body, fields)
        elif self.pipeline or self.scope is not cycle.scope:
            self._close()  # what the application would need is gone; the client asks again
        else:
            self._hand_to_application(b"")
            self.cycle.keep_alive = cycle.keep_alive

    def _send_answer(self, cycle: DirectCycle | DirectGetCycle, body: bytes, fields: bytes = b"") -> None:
        headers = self.server_state.default_headers
        response = self._config.response_head.with_body(headers, body, fields, keep_alive=cycle.keep_alive)
        self.transport.write(response)
        if not cycle.keep_alive:
            self._close()
        if self.pipeline:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._look()  # an idle connection is closed as one is whose request does not come

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _hand_to_application(self, body: bytes) -> None:
        self.cycle = None  # type: ignore[assignment] # as before the first request
        super().on_headers_complete()
        super().on_body(body)
        super().on_message_complete()

    # -- streams

    def stream(self, cycle: RequestResponseCycle) -> TransportStream:
        """Return the body of the response to a request, which the application will attach to."""
        streams = self._config.streams(self.server_state, self.loop)
        return TransportStream(streams, self.transport, partial(self._give, cycle))

    def _give(self, cycle: RequestResponseCycle, stream: TransportStream) -> tuple[bool, bool]:
        """Give the connection to a stream. Return whether the client is still there, and reads."""
        is_there, reads = not cycle.disconnected, not self.flow.write_paused
        has_head = cycle.response_started and not cycle.response_complete and cycle.chunked_encoding
        if is_there and not has_head:
            raise RuntimeError("the head of a response without content-length comes before its stream")
        cycle.disconnected = True  # for uvicorn: nothing more is to be sent
        if is_there:
            self._put(None)
            self._stalls.forget(self.transport)
            self._unset_keepalive_if_required()
            self.connections.discard(self)
            self.pipeline.clear()  # what the client has asked for beside its stream is not answered
            self.flow.resume_reading()
            self.transport.set_protocol(stream)
            self.parser = None  # type: ignore[assignment] # it refers to us, and we are not needed any more
        return is_there, reads

    # -- sockets

    def _get_upgrade(self) -> bytes | None:
        """Return the wanted protocol. `Connection` may come in several fields, of which uvicorn reads the last."""
        tokens, wanted = set[bytes](), None
        for name, value in self.headers:
            if name == b"connection":
                tokens.update(token.strip() for token in value.lower().split(b","))
            elif name == b"upgrade":
                wanted = value.lower()
        return wanted if b"upgrade" in tokens else None

    def handle_websocket_upgrade(self) -> None:
        self.connections.discard(self)
        self._stalls.forget(self.transport)
        sockets = self._config.sockets(self.app, self.server_state, self.loop)
        try:
            accept = accept_of(self.parser.get_method(), self.headers)
            scope = self._websocket_scope()
            endpoint = self._config.direct.sockets.get(scope["raw_path"])
            if endpoint is not None:
                scope = self._config.believe(scope)  # to the application it makes no difference: it believes the same
            sockets.open(self.transport, scope, accept, endpoint)
        except BadHandshake as error:
            self.transport.write(error.response)
            self.transport.close()
            return
        self.parser = None  # type: ignore[assignment] # it refers to us, and we are not needed any more

    def _websocket_scope(self) -> Scope:
        try:
            url = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            raise BadHandshake(HTTPStatus.BAD_REQUEST, "the URL cannot be read") from None
        if not url.path:
            raise BadHandshake(HTTPStatus.BAD_REQUEST, "the URL has no path")
        try:
            path, query = url.path.decode("ascii"), url.query or b""
            query.decode("ascii")
        except UnicodeDecodeError:
            raise BadHandshake(
                HTTPStatus.BAD_REQUEST, "the URL holds characters that are not ASCII; percent-encode them"
            ) from None
        wanted = [value.decode("latin-1") for name, value in self.headers if name == b"sec-websocket-protocol"]
        return {
            "type": "websocket",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if self.scheme == "https" else "ws",
            "server": None,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + url.path,
            "query_string": query,
            "headers": self.headers,
            "subprotocols": [each.strip() for value in wanted for each in value.split(",")],
            "state": self.app_state.copy(),
        }


def _stream_of(protocol: weakref.ref[HttpProtocol], cycle: weakref.ref[RequestResponseCycle]) -> TransportStream:
    """Return the body of a response. The scope refers to no object that refers to it: nothing is left to collect."""
    connection, request = protocol(), cycle()
    if connection is None or request is None:
        raise RuntimeError("the request of this stream has ended")
    return connection.stream(request)

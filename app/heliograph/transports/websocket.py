"""`/ws`: the WebSocket endpoint. It reads frames, and passes their operations to the connection's `Driver`."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from heliograph.auth.authenticator import Credentials, Identity, credentials_of
from heliograph.codecs.codec import Codec
from heliograph.codecs.plain.cursor import stated
from heliograph.errors import BusUnavailable, ErrorCode, InvalidToken, KeysUnavailable, UserBlocked
from heliograph.hub.frames import Encoding, Sink, as_binary_frame, as_text_frame, payload_only
from heliograph.hub.outbox import Outbox
from heliograph.protocol.budget import LARGE_BYTES, REFUSED_BYTES, SMALL_FRAMES
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.operations import Connect, Operation, RequestId
from heliograph.protocol.session import Reject
from heliograph.protocol.token_bucket import TokenBucket
from heliograph.telemetry import Traffic
from heliograph.transports.addresses import address_of
from heliograph.transports.asgi_sink import AsgiSink
from heliograph.transports.driver import OTHER_USER, Disconnected, Driver, Parts
from heliograph.transports.failed_attempts import TOO_MANY
from heliograph.transports.origins import REFUSED, OriginPolicy
from heliograph.transports.query import BadQuery, Query

logger = logging.getLogger(__name__)

CHANNEL_KINDS = {"runs": "run", "logs": "logs"}  # part of the path -> namespace
SERVER_SOCKET = "heliograph.socket"  # in the ASGI scope: our server's own socket, for direct use
RETRY_AFTER_S = 1  # for a handshake that may be retried
MOST_OWED_S = 3.0  # how long a client waits at most because of what was read for it
GIVE_UP_AGAIN_S = 1.0  # until the next look at a client that is still being admitted at its deadline
MOST_WAITING = 64  # frames that may wait for a slow one before the socket is no longer read


class Receiver(Protocol):
    """Takes a client's frames. No method may block."""

    def receive_text(self, text: str) -> None: ...

    def receive_binary(self, data: bytes) -> None: ...

    def lost(self, code: int) -> None:
        """Handle the end: the client has gone, or the socket was closed, with this code. Called once."""
        ...


class ServerSocket(Sink[bytes], Protocol):
    """The socket that `heliograph.server` offers under `SERVER_SOCKET`: it takes frames and reports back-pressure."""

    def attach(self, outbox: Outbox[bytes], receiver: Receiver) -> None:
        """Take over the socket; the application may return."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def hang_up(self) -> None:
        """End as soon as everything is written, without waiting for the peer's close frame."""
        ...


@dataclass(frozen=True)
class Denial:
    """Why a handshake is refused."""

    status: int
    reason: str


@dataclass
class Handshake:
    """The content of a handshake: the client (`connect`; in the path: `user`), its channels and its address."""

    connect: Connect | Reject | None
    user: str | None
    channels: tuple[str, ...]
    address: str
    identity: Identity | None = None  # once it is checked

    @classmethod
    def read(cls, scope: Scope, *, open_mode: bool) -> "Handshake":
        user, address = _user_in_path(scope), address_of(scope)
        try:
            query = Query(scope)
        except BadQuery as error:
            return cls(Reject(error.code, str(error), close=CloseCode.BAD_REQUEST), user, (), address)
        connect = _connect_in_url(scope, query, user, open_mode=open_mode)
        return cls(connect, user, _channels_in_url(scope, query), address)


@dataclass(frozen=True)
class Language:
    """A codec that clients of the endpoint may use, and the framing of its payloads."""

    codec: Codec
    frames: Encoding[bytes]  # WebSocket frames, for our own server
    payloads: Encoding[bytes]  # payloads only, for other servers

    @classmethod
    def of(cls, codec: Codec, traffic: Traffic) -> "Language":
        frame = as_binary_frame if codec.is_binary else as_text_frame
        return cls(codec, Encoding(codec, frame, traffic, joins=True), Encoding(codec, payload_only, traffic))


@dataclass(frozen=True)
class WebSocketEndpoint:
    """The ASGI application behind `/ws`, `/ws/users/{user}` and `/ws/{kind}/{id}`.

    `languages`: the codecs that clients may use. A client that offers no subprotocol uses the first.
    """

    parts: Parts
    origins: OriginPolicy
    languages: tuple[Language, ...]

    @classmethod
    def build(cls, parts: Parts, origins: OriginPolicy, codecs: Sequence[Codec]) -> "WebSocketEndpoint":
        traffic = parts.telemetry.traffic["websocket"]
        return cls(parts, origins, tuple(Language.of(codec, traffic) for codec in codecs))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if self.parts.node.draining:
            # 503 before the upgrade: nginx hands the handshake on to another replica.
            await deny(scope, send, 503, "this replica is shutting down; try again")
        elif not self.origins.admits(headers := Headers(scope=scope)):
            await deny(scope, send, 403, REFUSED)
        else:
            handshake = Handshake.read(scope, open_mode=self.parts.policy.open_mode)
            # A page cannot see a status: accept it, and close it with the code of the refusal.
            denial = None if "origin" in headers else await self._check(scope, handshake)
            if denial is not None:
                await deny(scope, send, denial.status, denial.reason)
            elif (address := self.parts.addresses.enter(scope)) is None:
                await deny(scope, send, 429, self.parts.addresses.refusal)
            else:
                language, subprotocol = self._choose(scope)
                try:
                    await send(_acceptance(subprotocol))
                except BaseException:
                    self.parts.addresses.leave(address)
                    raise
                await self._serve(scope, receive, send, address, handshake, language)
                return
        self.parts.telemetry.connections_refused += 1

    async def _check(self, scope: Scope, handshake: "Handshake") -> "Denial | None":
        """Check the identity in the handshake, if there is one. Return why it is refused."""
        connect = handshake.connect
        bad: InvalidToken
        try:
            if isinstance(connect, Reject):
                if connect.close is not CloseCode.INVALID_TOKEN:
                    return None
                raise InvalidToken(connect.message)
            if connect is None or connect.token is connect.ticket is None:
                return None
            credentials = Credentials(connect.token, connect.user, connect.ticket)
            identity = await self.parts.authenticator.identify(credentials)
        except InvalidToken as error:
            bad = error
        except UserBlocked as error:
            return Denial(403, str(error))
        except (BusUnavailable, KeysUnavailable):
            return None  # it cannot be checked now: the socket is closed with a code that says so
        else:
            if handshake.user not in (None, identity.user):
                return Denial(403, OTHER_USER)
            handshake.identity = identity
            return None
        if not await self.parts.failed_attempts.failed(address_of(scope)):
            return Denial(429, TOO_MANY)
        return Denial(401, str(bad))

    def _choose(self, scope: Scope) -> tuple[Language, str | None]:
        """Choose the first known subprotocol that the client offers, and its codec."""
        for offered in scope.get("subprotocols", ()):
            for language in self.languages:
                if offered in language.codec.subprotocols:
                    return language, offered
        return self.languages[0], None

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, address: str, handshake: "Handshake", language: Language
    ) -> None:
        server_socket: ServerSocket | None = scope.get("extensions", {}).get(SERVER_SOCKET)
        if server_socket is not None:
            outbox = self._outbox(server_socket)
            socket = _Socket(self.parts, handshake, address, language.codec, language.frames, outbox, server_socket)
            server_socket.attach(outbox, socket)
            socket.begin()
            return
        sink = AsgiSink(receive, send, is_binary=language.codec.is_binary)
        outbox = self._outbox(sink)
        sink.attach(outbox)
        await sink.run(_Socket(self.parts, handshake, address, language.codec, language.payloads, outbox))

    def _outbox(self, sink: Sink[bytes]) -> Outbox[bytes]:
        return Outbox(sink, self.parts.flush_scheduler, self.parts.settings.limits.outbox_bytes)


class _Socket:
    """One socket from its first frame to its last: a `Receiver`.

    Most operations are carried out at once, without a task. While one takes time, later frames wait, in order.
    """

    __slots__ = (
        "_address",
        "_bucket",
        "_close_code",
        "_codec",
        "_connect",
        "_decode",
        "_driver",
        "_identity",
        "_newcomer_at",
        "_paid",
        "_parts",
        "_patience",
        "_pause_until",
        "_reads",
        "_rest",
        "_socket",
        "_timer",
        "_traffic",
        "_uncounted",
        "_waiting",
        "_work",
    )

    def __init__(
        self,
        parts: Parts,
        handshake: "Handshake",
        address: str,
        codec: Codec,
        encoding: Encoding[bytes],
        outbox: Outbox[bytes],
        socket: ServerSocket | None = None,
    ) -> None:
        self._parts = parts
        self._address = address  # counted, and left with this socket
        self._socket = socket  # whose reading is paused; None if the reader waits until we are idle
        self._connect = handshake.connect
        self._identity = handshake.identity
        self._driver = Driver(
            parts,
            encoding,
            outbox,
            only_user=handshake.user,
            channels=handshake.channels,
            on_failed=partial(parts.failed_attempts.failed, handshake.address),
        )
        self._codec = codec
        self._decode = codec.decode
        self._traffic = encoding.traffic
        self._bucket = TokenBucket(parts.settings.limits.messages_per_second, monotonic())
        self._patience: TokenBucket | None = None  # for frames over the rate
        self._uncounted = 0  # bytes that the pace of reading has not counted yet
        self._reads: TokenBucket | None = None  # bytes read from the log
        self._paid: asyncio.Future[None] | None = None  # until the client may go on after large reads
        self._work: asyncio.Task[None] | None = None  # the operation that takes time
        self._rest: deque[Operation] | None = None  # the other operations of its frame
        self._waiting: deque[str | bytes] | None = None  # the frames after it
        self._pause_until = 0.0  # (monotonic) no further frame is handled before this time
        self._timer: asyncio.TimerHandle | None = None
        self._close_code: int | None = None  # of the ended socket
        # The address, until the client has identified itself.
        self._newcomer_at = None if self._connect is not None else handshake.address
        if self._newcomer_at is not None:
            parts.newcomers.enter(self._newcomer_at, self)

    def begin(self) -> None:
        """Connect the client if the URL identifies it; otherwise give it some time to do so."""
        connect, self._connect = self._connect, None
        if isinstance(connect, Reject):
            with suppress(Disconnected):
                self._driver.refuse(connect)
        elif connect is not None and self._identity is not None:
            identity, self._identity = self._identity, None
            with suppress(Disconnected):
                work = self._driver.begin_as(connect, identity)
                if work is not None:
                    self._work = asyncio.create_task(self._do(work), name="websocket-work")
        elif connect is not None:
            self._carry_out(connect)
        timeout_s = self._parts.settings.limits.connect_timeout_s
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._give_up)

    async def idle(self) -> None:
        """Wait until no operation is under way."""
        while self._work is not None:
            await asyncio.wait([self._work])

    # -- Receiver

    def receive_text(self, text: str) -> None:
        if self._codec.is_binary:
            self._driver.connection.close(CloseCode.UNSUPPORTED_DATA, "frames are binary, not text")
        else:
            self._receive(text)

    def receive_binary(self, data: bytes) -> None:
        if self._codec.is_binary:
            self._receive(data)
        else:
            self._driver.connection.close(CloseCode.UNSUPPORTED_DATA, "frames are JSON text, not binary")

    def lost(self, code: int) -> None:
        self._close_code = code
        self._rest = self._waiting = None
        self._stop_timer()
        self._is_no_newcomer()
        self._parts.addresses.leave(self._address)
        if self._paid is not None:
            self._go_on_reading(self._paid)
        if self._work is None:
            self._driver.end(code)

    # -- operations

    def _receive(self, frame: str | bytes) -> None:
        if self._work is None:
            self._handle(frame)
            return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(frame)
        if self._socket is not None and len(self._waiting) >= MOST_WAITING:
            self._socket.pause_reading()

    def _handle(self, frame: str | bytes) -> None:
        """Handle a frame. Its first operation is charged before the frame is decoded."""
        if not self._bucket.take(now := monotonic()):
            for request_id in self._codec.request_ids(frame):
                self._traffic.messages_in += 1
                self._refuse_one_too_many(request_id, now)
            return
        is_paid = True
        for operation in self._decode(frame):
            self._traffic.messages_in += 1
            self._uncounted += 1
            if not (is_paid or self._bucket.take(now)):
                self._refuse_one_too_many(operation.request_id, now)
            elif self._work is None:
                self._carry_out(operation)
            else:
                if self._rest is None:
                    self._rest = deque()
                self._rest.append(operation)
            is_paid = False
        if self._uncounted >= SMALL_FRAMES or len(frame) > LARGE_BYTES or self._driver.refusals:
            self._pause_after(len(frame))

    def _pause_after(self, size: int) -> None:
        """Stop reading for as long as the user's frames came too fast, so that others need not wait."""
        counts = size + REFUSED_BYTES * self._driver.refusals + self._parts.intake.frame_bytes * self._uncounted
        self._driver.refusals = self._uncounted = 0
        now = monotonic()
        pause_s = self._driver.pace.take(counts, now)
        if not pause_s:
            return
        if self._socket is not None:
            self._socket.pause_reading()
        self._pause_until = now + pause_s
        if self._work is None:
            self._work = asyncio.create_task(self._do(asyncio.sleep(0)), name="websocket-pause")

    def _refuse_one_too_many(self, request_id: RequestId | None, now: float) -> None:
        """Answer and drop a frame over the rate. Answers cost too: close a client that goes on."""
        limits = self._parts.settings.limits
        if self._patience is None:
            self._patience = TokenBucket(limits.messages_per_second, now, limits.refusals)
        if self._patience.take(now):
            refusal = f"more than {limits.messages_per_second:g} frames a second; this one is dropped"
            self._driver.refuse(Reject(ErrorCode.RATE_LIMITED, refusal, request_id))
        else:
            reason = f"{limits.refusals} frames over the rate of {limits.messages_per_second:g} a second were refused"
            self._driver.connection.close(CloseCode.TOO_MANY_ERRORS, reason)

    def _carry_out(self, operation: Operation) -> None:
        try:
            work = self._driver.begin(operation)
        except Disconnected:
            return
        except Exception:
            logger.exception("failed", extra=self._driver.about)
            self._fail()
            return
        if work is not None:
            self._work = asyncio.create_task(self._do(work), name="websocket-work")

    async def _do(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
            if self._driver.connection.read_bytes:
                await self._pay()
            if self._driver.refusals:
                self._pause_after(0)
            if self._close_code is None and (pause_s := self._pause_until - monotonic()) > 0:
                await asyncio.sleep(pause_s)
        except Disconnected:
            pass
        except Exception:
            logger.exception("failed", extra=self._driver.about)
            self._fail()
        finally:
            self._work = None
            if self._driver.registered:
                self._stop_timer()
                self._is_no_newcomer()
            if self._close_code is not None:
                self._driver.end(self._close_code)
            else:
                self._go_on()

    async def _pay(self) -> None:
        """Charge what was read for the client. After large reads its next frames wait for some time.

        They are not refused: a client that comes back after an hour has much to read, and has done nothing wrong.
        """
        rate, now = self._parts.settings.limits.read_bytes_per_second, monotonic()
        if self._reads is None:
            self._reads = TokenBucket(rate, now)
        read, self._driver.connection.read_bytes = self._driver.connection.read_bytes, 0
        owed_s = self._reads.charge(read, now)
        if owed_s > 0 and self._close_code is None:
            loop = asyncio.get_running_loop()
            self._paid = loop.create_future()
            loop.call_later(min(owed_s, MOST_OWED_S), self._go_on_reading, self._paid)
            await self._paid
            self._paid = None

    def _go_on_reading(self, paid: asyncio.Future[None]) -> None:
        if not paid.done():
            paid.set_result(None)

    def _go_on(self) -> None:
        """Handle waiting operations and frames."""
        while self._rest and self._work is None:
            self._carry_out(self._rest.popleft())
        while self._waiting and self._work is None:
            self._handle(self._waiting.popleft())
        if self._socket is not None and not self._waiting:
            self._waiting = None
            self._socket.resume_reading()

    def _fail(self) -> None:
        self._driver.connection.close(CloseCode.INTERNAL_ERROR, "internal error")

    def make_room(self) -> None:
        """See `Newcomer`."""
        self._parts.telemetry.connections_refused += 1
        self._driver.connection.close(CloseCode.TRY_AGAIN_LATER, "no 'connect', and others of this address came")
        if self._socket is not None:
            self._socket.hang_up()

    def _give_up(self) -> None:
        self._timer = None
        if self._driver.registered:
            return
        if self._work is not None:  # we are slow, not the client
            self._timer = asyncio.get_running_loop().call_later(GIVE_UP_AGAIN_S, self._give_up)
            return
        self._driver.connection.close(CloseCode.BAD_REQUEST, "no 'connect' in time")
        if self._socket is not None:
            self._socket.hang_up()

    def _is_no_newcomer(self) -> None:
        address, self._newcomer_at = self._newcomer_at, None
        if address is not None:
            self._parts.newcomers.leave(address, self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _connect_in_url(scope: Scope, query: Query, user: str | None, *, open_mode: bool) -> Connect | Reject | None:
    """Return the `connect` in a handshake, which replaces the first frame; `user`: the one in the path."""
    try:
        credentials = credentials_of(scope, query)
    except InvalidToken as error:
        return Reject(error.code, str(error), close=CloseCode.INVALID_TOKEN)
    if user is None:
        user = credentials.user
    if not open_mode:
        user = None
    if user is credentials.token is credentials.ticket is None:
        return None
    return Connect(
        token=credentials.token,
        user=user,
        ticket=credentials.ticket,
        since=stated(query.get("cursor")),
        replay="replay" in query,
    )


def _user_in_path(scope: Scope) -> str | None:
    """Return the user of `/ws/users/…`; bytes that are not UTF-8 become lone surrogates."""
    if "user" not in scope["path_params"]:
        return None
    _, _, name = scope["raw_path"].partition(b"/ws/users/")
    return unquote_to_bytes(name).decode(errors="surrogateescape")


def _channels_in_url(scope: Scope, query: Query) -> tuple[str, ...]:
    """Return the channel in the path, then those in the query."""
    params = scope["path_params"]
    named = tuple(f"{namespace}:{params[kind]}" for kind, namespace in CHANNEL_KINDS.items() if kind in params)
    return named + query.channels


def _acceptance(subprotocol: str | None) -> Message:
    """Return the acceptance of a handshake."""
    if subprotocol is None:
        return {"type": "websocket.accept"}
    return {"type": "websocket.accept", "subprotocol": subprotocol}


async def deny(scope: Scope, send: Send, status: int, reason: str) -> None:
    """Answer the handshake with an HTTP status, or with a bare refusal where the server cannot do that."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1013, "reason": reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    elif status in (429, 503):
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reason.encode() + b"\n"})

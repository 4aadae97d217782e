"""`/ws`: the WebSocket door. Reads frames, and hands what they ask for to the connection's `Driver`."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app.errors import BadFrame, ErrorCode, InvalidToken
from app.hub.frames import Encoding, Sink, text_frame
from app.hub.outbox import Outbox
from app.protocol.codes import CloseCode
from app.protocol.operations import Connect
from app.protocol.session import Refuse
from app.protocol.token_bucket import TokenBucket
from app.transports.asgi_sink import AsgiSink
from app.transports.auth import OriginPolicy, credentials_of
from app.transports.driver import Disconnected, Driver, Parts

logger = logging.getLogger("heliograph.websocket")

CHANNEL_KINDS = {"runs": "run", "logs": "logs"}  # what stands in the path -> the namespace
SINK_EXTENSION = "heliograph.sink"  # in the ASGI scope: our server's own socket, to be written to without a detour


class ServerSink(Sink, Protocol):
    """What `app.server` offers under `SINK_EXTENSION`: takes WebSocket frames and tells of back-pressure."""

    def attach(self, outbox: Outbox) -> None: ...


@dataclass(frozen=True)
class WebSocketDoor:
    """The ASGI application behind `/ws`, `/ws/users/{user}` and `/ws/{kind}/{id}`."""

    parts: Parts
    origins: OriginPolicy
    frames: Encoding  # the codec in WebSocket frames, for our own server
    texts: Encoding  # the codec alone, for any other

    @classmethod
    def build(cls, parts: Parts) -> "WebSocketDoor":
        return cls(
            parts,
            OriginPolicy(parts.settings.allowed_origins),
            frames=Encoding(parts.codec, text_frame),
            texts=Encoding(parts.codec, bytes),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if self.parts.node.draining:
            # 503 before the upgrade: nginx hands the handshake on to another replica.
            await _deny(scope, send, 503, "this replica is shutting down; try again")
        elif not self.origins.admits(Headers(scope=scope)):
            await _deny(scope, send, 403, "pages of this origin may not connect (HELIOGRAPH_ALLOWED_ORIGINS)")
        elif not self.parts.addresses.enter(scope):
            await _deny(scope, send, 429, self.parts.addresses.refusal)
        else:
            try:
                await send({"type": "websocket.accept"})
                await self._serve(scope, receive, send)
            finally:
                self.parts.addresses.leave(scope)
            return
        self.parts.telemetry.connections_refused += 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        server_sink: ServerSink | None = scope.get("extensions", {}).get(SINK_EXTENSION)
        if server_sink is not None:
            await self._drive(scope, receive, self.frames, server_sink)
            return
        async with AsgiSink(receive, send) as sink:
            await self._drive(scope, sink.receive, self.texts, sink)

    async def _drive(self, scope: Scope, receive: Receive, encoding: Encoding, sink: ServerSink) -> None:
        outbox = Outbox(sink, self.parts.turn, self.parts.settings.limits.outbox_bytes)
        sink.attach(outbox)
        await _Socket(self, scope, receive, encoding, outbox).run()


class _Socket:
    """Reads one socket from its first frame to its last."""

    def __init__(
        self, door: WebSocketDoor, scope: Scope, receive: Receive, encoding: Encoding, outbox: Outbox
    ) -> None:
        self._parts = door.parts
        self._scope = scope
        self._receive = receive
        # Bytes that are no UTF-8 become lone surrogates here, which neither a user id nor a channel may hold.
        query = scope["query_string"].decode("ascii")
        self._query = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
        self._driver = Driver(
            self._parts,
            encoding,
            outbox,
            only_user=self._user_in_path(),
            channels=self._channels_from_url(),
        )
        limits = self._parts.settings.limits
        self._connect_by = asyncio.get_running_loop().time() + limits.connect_timeout_s
        now = time.monotonic()
        self._bucket = TokenBucket(limits.messages_per_second, now)
        self._patience = TokenBucket(limits.messages_per_second, now, limits.refusals)

    async def run(self) -> None:
        try:
            if (connect := self._connect_at_once()) is not None:
                await self._driver.receive(connect)
            async for text in self._texts():
                await self._handle(text)
        except Disconnected:
            pass
        except Exception:
            logger.exception("connection %s failed", self._driver.connection.id)
            self._driver.connection.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            self._driver.end()

    def _connect_at_once(self) -> Connect | None:
        """The handshake may say who comes, instead of a first frame.

        Raises:
            Disconnected: it says so in a way that is refused.
        """
        try:
            credentials = credentials_of(self._scope, self._query)
        except InvalidToken as error:
            self._driver.refuse(Refuse(error.code, str(error), close=CloseCode.INVALID_TOKEN))
            raise
        user = None
        if self._parts.authenticator.mode == "open":
            user = credentials.user if (named := self._user_in_path()) is None else named
        if user is credentials.token is credentials.ticket is None:
            return None
        return Connect(
            token=credentials.token,
            user=user,
            ticket=credentials.ticket,
            cursor=self._query.get("cursor"),
            replay="replay" in self._query,
        )

    def _user_in_path(self) -> str | None:
        """The user of `/ws/users/…`, bytes that are no UTF-8 as lone surrogates: the server replaces them."""
        if "user" not in self._scope["path_params"]:
            return None
        _, _, name = self._scope["raw_path"].partition(b"/ws/users/")
        return unquote_to_bytes(name).decode(errors="surrogateescape")

    def _channels_from_url(self) -> list[str]:
        """`?channels=a,b`, or the channel that the path names."""
        params = self._scope["path_params"]
        named = [f"{namespace}:{params[kind]}" for kind, namespace in CHANNEL_KINDS.items() if kind in params]
        return named + [channel for channel in self._query.get("channels", "").split(",") if channel]

    async def _texts(self) -> AsyncIterator[str]:
        """The client's frames, until it leaves."""
        while True:
            try:
                async with asyncio.timeout_at(None if self._driver.registered else self._connect_by):
                    message = await self._receive()
            except TimeoutError:
                self._driver.connection.close(CloseCode.BAD_REQUEST, "no 'connect' in time")
                return
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                self._driver.connection.close(CloseCode.UNSUPPORTED_DATA, "frames are JSON text, not binary")
                return
            yield text

    async def _handle(self, text: str) -> None:
        """One frame of the client."""
        self._parts.telemetry.messages_in += 1
        if not self._bucket.take(now := time.monotonic()):
            self._refuse_one_too_many(text, now)
            return
        try:
            operation = self._parts.codec.decode(text)
        except BadFrame as error:
            self._parts.telemetry.bad_frames += 1
            self._driver.refuse(Refuse(error.code, str(error), error.request_id))
        else:
            await self._driver.receive(operation)

    def _refuse_one_too_many(self, text: str, now: float) -> None:
        """A frame over the rate is answered and dropped. Answers cost too: who goes on regardless is closed."""
        limits = self._parts.settings.limits
        if not self._patience.take(now):
            refusal = (
                f"{limits.refusals} frames over the rate of {limits.messages_per_second:g} a second were refused"
            )
            self._driver.refuse(Refuse(ErrorCode.RATE_LIMITED, refusal, close=CloseCode.TOO_MANY_ERRORS))
        refusal = f"more than {limits.messages_per_second:g} frames a second; this one is dropped"
        self._driver.refuse(Refuse(ErrorCode.RATE_LIMITED, refusal, self._parts.codec.request_id(text)))


async def _deny(scope: Scope, send: Send, status: int, reason: str) -> None:
    """Answer the handshake with an HTTP status, or with a bare refusal where the server cannot do that."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1013, "reason": reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reason.encode() + b"\n"})

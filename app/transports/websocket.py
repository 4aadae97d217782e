"""`/ws`: the WebSocket door. Drives a `Session`: reads, decides nothing, carries out what the session says."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol, assert_never
from urllib.parse import parse_qsl, unquote_to_bytes

from msgspec import UNSET
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app.cluster.connection_manager import ConnectionManager
from app.cluster.node import Node
from app.errors import (
    BadData,
    BadFrame,
    BadUserId,
    BusUnavailable,
    ConnectionLimit,
    ErrorCode,
    HeliographError,
    InvalidToken,
)
from app.hub.connection import Connection
from app.hub.frames import Encoding, Sink, text_frame
from app.hub.outbox import Outbox, Turn
from app.protocol.codes import CloseCode
from app.protocol.events import Ack, Emitted, History, Message, Presence, Published
from app.protocol.identity import user_of
from app.protocol.namespace import Namespaces
from app.protocol.operations import Connect, Subscribe
from app.protocol.plain import PlainCodec
from app.protocol.position import format_cursor
from app.protocol.session import (
    Action,
    Announce,
    Answer,
    Authenticate,
    HandOver,
    Join,
    Leave,
    Muster,
    Recall,
    Refuse,
    Route,
    Session,
    echo,
)
from app.protocol.token_bucket import TokenBucket
from app.settings import Settings
from app.telemetry import Telemetry
from app.transports.asgi_sink import AsgiSink
from app.transports.auth import Authenticator, OriginPolicy

logger = logging.getLogger("heliograph.websocket")

CHANNEL_KINDS = {"runs": "run", "logs": "logs"}  # what stands in the path -> the namespace
SINK_EXTENSION = "heliograph.sink"  # in the ASGI scope: our server's own socket, to be written to without a detour


class ServerSink(Sink, Protocol):
    """What `app.server` offers under `SINK_EXTENSION`: takes WebSocket frames and tells of back-pressure."""

    def attach(self, outbox: Outbox) -> None: ...


class _Disconnected(Exception):
    """The client has gone."""


@dataclass(frozen=True)
class WebSocketDoor:
    """The ASGI application behind `/ws`, `/ws/users/{user}` and `/ws/{kind}/{id}`."""

    manager: ConnectionManager
    node: Node
    authenticator: Authenticator
    origins: OriginPolicy
    settings: Settings
    telemetry: Telemetry
    namespaces: Namespaces
    turn: Turn
    codec: PlainCodec
    frames: Encoding  # the codec in WebSocket frames, for our own server
    texts: Encoding  # the codec alone, for any other

    @classmethod
    def build(
        cls,
        *,
        manager: ConnectionManager,
        node: Node,
        authenticator: Authenticator,
        settings: Settings,
        telemetry: Telemetry,
        namespaces: Namespaces,
        call_soon: Callable[[Callable[[], None]], object],
    ) -> "WebSocketDoor":
        codec = PlainCodec(settings.limits.depth)
        return cls(
            manager=manager,
            node=node,
            authenticator=authenticator,
            origins=OriginPolicy(settings.allowed_origins),
            settings=settings,
            telemetry=telemetry,
            namespaces=namespaces,
            turn=Turn(call_soon),
            codec=codec,
            frames=Encoding(codec, text_frame),
            texts=Encoding(codec, bytes),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if self.node.draining:
            # 503 before the upgrade: nginx hands the handshake on to another replica.
            await _deny(scope, send, 503, "this replica is shutting down; try again")
        elif not self.origins.admits(Headers(scope=scope)):
            await _deny(scope, send, 403, "pages of this origin may not connect (HELIOGRAPH_ALLOWED_ORIGINS)")
        else:
            await send({"type": "websocket.accept"})
            await self._serve(scope, receive, send)
            return
        self.telemetry.connections_refused += 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        server_sink: ServerSink | None = scope.get("extensions", {}).get(SINK_EXTENSION)
        if server_sink is not None:
            await self._drive(scope, receive, self.frames, server_sink)
            return
        async with AsgiSink(receive, send) as sink:
            await self._drive(scope, sink.receive, self.texts, sink)

    async def _drive(self, scope: Scope, receive: Receive, encoding: Encoding, sink: ServerSink) -> None:
        outbox = Outbox(sink, self.turn, self.settings.limits.outbox_bytes)
        sink.attach(outbox)
        await _Driver(self, scope, receive, encoding, outbox).run()


class _Driver:
    """One socket from its first frame to its last."""

    def __init__(
        self, door: WebSocketDoor, scope: Scope, receive: Receive, encoding: Encoding, outbox: Outbox
    ) -> None:
        self._door = door
        self._scope = scope
        self._receive = receive
        session_id = uuid.uuid4().hex
        settings = door.settings
        self._session = Session(
            session_id,
            door.node.name,
            namespaces=door.namespaces,
            open_mode=door.authenticator.mode == "open",
            ping_interval_s=settings.ping.interval_s,
            max_channels=settings.limits.channels_per_connection,
        )
        self._connection = Connection(session_id, "", encoding, outbox)
        # Bytes that are no UTF-8 become lone surrogates here, which neither a user id nor a channel may hold.
        query = scope["query_string"].decode("ascii")
        self._query = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
        self._registered = False
        self._connect_by = asyncio.get_running_loop().time() + settings.limits.connect_timeout_s
        self._bucket = TokenBucket(settings.limits.messages_per_second, time.monotonic())
        self._expiry: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        try:
            if (connect := self._connect_from_url()) is not None:
                await self._act(self._session.receive(connect))
            async for text in self._texts():
                await self._handle(text)
        except _Disconnected:
            pass
        except Exception:
            logger.exception("connection %s failed", self._connection.id)
            self._connection.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            if self._expiry is not None:
                self._expiry.cancel()
            if self._registered:
                self._door.manager.disconnect(self._connection)

    # -- reading

    def _connect_from_url(self) -> Connect | None:
        """In open mode the URL may say who comes, instead of a first frame."""
        if self._door.authenticator.mode != "open":
            return None
        user = self._user_in_path()
        if user is None:
            user = self._query.get("user")
        if user is None:
            return None
        return Connect(user=user, cursor=self._query.get("cursor"), replay="replay" in self._query)

    def _user_in_path(self) -> str | None:
        """The user of `/ws/users/…`, bytes that are no UTF-8 as lone surrogates: the server replaces them."""
        if "user" not in self._scope["path_params"]:
            return None
        _, _, name = self._scope["raw_path"].partition(b"/ws/users/")
        return unquote_to_bytes(name).decode(errors="surrogateescape")

    async def _texts(self) -> AsyncIterator[str]:
        """The client's frames, until it leaves."""
        while True:
            try:
                async with asyncio.timeout_at(None if self._registered else self._connect_by):
                    message = await self._receive()
            except TimeoutError:
                self._connection.close(CloseCode.BAD_REQUEST, "no 'connect' in time")
                return
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                self._connection.close(CloseCode.UNSUPPORTED_DATA, "frames are JSON text, not binary")
                return
            yield text

    async def _handle(self, text: str) -> None:
        """One frame of the client."""
        self._door.telemetry.messages_in += 1
        if not self._bucket.take(time.monotonic()):
            rate = self._door.settings.limits.messages_per_second
            text_of_refusal = f"more than {rate:g} frames a second; this one is dropped"
            self._refuse(Refuse(ErrorCode.RATE_LIMITED, text_of_refusal, self._door.codec.request_id(text)))
            return
        try:
            operation = self._door.codec.decode(text)
        except BadFrame as error:
            self._door.telemetry.bad_frames += 1
            self._refuse(Refuse(error.code, str(error), error.request_id))
        else:
            await self._act(self._session.receive(operation))

    # -- doing what the session says

    async def _act(self, action: Action) -> None:
        match action:
            case Answer(event):
                self._door.manager.tell(self._connection, event)
            case Leave(channel, answer):
                self._door.manager.unsubscribe(self._connection, channel)
                self._door.manager.tell(self._connection, answer)
            case Join():
                await self._join(action)
            case Announce():
                await self._announce(action)
            case Recall():
                await self._recall(action)
            case HandOver():
                await self._hand_over(action)
            case Muster():
                await self._muster(action)
            case Refuse():
                self._refuse(action)
            case Authenticate():
                await self._authenticate(action)
            case Route():
                await self._route(action)
            case _:
                assert_never(action)

    async def _authenticate(self, action: Authenticate) -> None:
        try:
            identity = self._door.authenticator.identify(token=action.token, user=action.user)
        except InvalidToken as error:
            self._reject(error, CloseCode.INVALID_TOKEN)
        except BadUserId as error:
            self._reject(error, CloseCode.BAD_REQUEST)
        else:
            if self._user_in_path() not in (None, identity.user):
                self._connection.close(CloseCode.NOT_ALLOWED, "the token is for another user than the URL")
                raise _Disconnected
            await self._register(identity.user)
            if identity.expires_at is not None:
                self._expire_in(identity.expires_at - time.time())

    async def _register(self, user: str) -> None:
        """Make the connection known, then tell the client: from here on it misses nothing."""
        if self._door.node.draining:
            self._connection.close(CloseCode.SHUTDOWN, "this replica is shutting down")
            raise _Disconnected
        self._connection.user = user
        self._connection.outbox.hold()
        try:
            await self._door.manager.connect(self._connection)
        except ConnectionLimit as error:
            self._door.telemetry.connections_refused += 1
            self._connection.close(CloseCode.CONNECTION_LIMIT, str(error))
            raise _Disconnected from None
        self._registered = True
        own, *others = self._session.identified(user)
        if own.since is None and not own.replay:
            cursor = await self._door.manager.listen(self._connection, own.channel)
            self._connection.open(self._session.greeting(cursor))
        else:
            cursor = "" if own.since is None else format_cursor({own.channel: own.since})
            self._connection.open(self._session.greeting(cursor))
            others.insert(0, own)
        for join in others:
            await self._join(join)
        for channel in self._channels_from_url():
            await self._act(self._session.receive(Subscribe(channel)))

    def _channels_from_url(self) -> list[str]:
        """`?channels=a,b`, or the channel that the path names."""
        params = self._scope["path_params"]
        named = [f"{namespace}:{params[kind]}" for kind, namespace in CHANNEL_KINDS.items() if kind in params]
        return named + [channel for channel in self._query.get("channels", "").split(",") if channel]

    async def _join(self, action: Join) -> None:
        try:
            await self._door.manager.subscribe(
                self._connection,
                action.channel,
                action.since,
                replay=action.replay,
                request_id=action.request_id,
            )
        except BusUnavailable as error:
            if user_of(action.channel) is not None:
                # Its own channel it cannot do without: it listens, and is told later where that has begun.
                await self._door.manager.listen(self._connection, action.channel)
            self._session.not_joined(action.channel)
            text = f"not subscribed to {action.channel!r}, try again: {error}"
            self._refuse(Refuse(error.code, text, action.request_id))

    async def _announce(self, action: Announce) -> None:
        publish = action.operation
        try:
            receipt = await self._door.manager.publish(
                publish.channel, publish.data, sender=self._session.user, ephemeral=publish.ephemeral
            )
        except BusUnavailable as error:
            self._refuse(Refuse(error.code, f"not published, try again: {error}", publish.id))
        except BadData as error:
            self._refuse(Refuse(error.code, str(error), publish.id))
        else:
            cursor = UNSET if receipt.position is None else format_cursor({publish.channel: receipt.position})
            ack = Published(message_id=receipt.message_id, cursor=cursor, id=echo(publish.id))
            self._door.manager.tell(self._connection, ack)

    async def _recall(self, action: Recall) -> None:
        read = action.operation
        try:
            opened = await self._door.manager.history(read.channel, action.since, read.limit)
        except BusUnavailable as error:
            self._refuse(Refuse(error.code, f"the history cannot be read, try again: {error}", read.id))
            return
        last = opened.publications[-1].position if opened.publications else action.since
        history = History(
            channel=read.channel,
            publications=[Message.of(publication) for publication in opened.publications],
            cursor=format_cursor({read.channel: last or opened.position}),
            id=echo(read.id),
        )
        self._door.manager.tell(self._connection, history)

    async def _muster(self, action: Muster) -> None:
        try:
            users = await self._door.manager.presence(action.channel)
        except BusUnavailable as error:
            self._refuse(Refuse(error.code, f"nobody can say, try again: {error}", action.request_id))
        else:
            presence = Presence(channel=action.channel, users=users, id=echo(action.request_id))
            self._door.manager.tell(self._connection, presence)

    async def _hand_over(self, action: HandOver) -> None:
        emit, session = action.operation, self._session
        try:
            await self._door.manager.emit(emit.event, emit.data, user_id=session.user or "", session=session.id)
        except BusUnavailable as error:
            self._refuse(Refuse(error.code, f"not stored: {error}", emit.id))
        else:
            self._door.manager.tell(self._connection, Emitted(id=echo(emit.id)))

    async def _route(self, action: Route) -> None:
        send, manager = action.operation, self._door.manager
        deliver = manager.send_message if send.ephemeral else manager.send
        try:
            receipt = await deliver(send.to, send.data, sender=self._session.user)
        except BusUnavailable as error:
            self._refuse(Refuse(error.code, f"not delivered, try again: {error}", send.id))
        else:
            ack = Ack(message_id=receipt.message_id, delivery=receipt.delivery, id=echo(send.id))
            self._door.manager.tell(self._connection, ack)

    def _refuse(self, refusal: Refuse) -> None:
        self._door.manager.send_error(self._connection, refusal.code, refusal.message, refusal.request_id)
        if refusal.close is not None:
            self._connection.close(refusal.close, refusal.message)
            raise _Disconnected

    def _reject(self, error: HeliographError, close: CloseCode) -> None:
        """The client is nobody: say why, and close."""
        self._refuse(Refuse(error.code, str(error), close=close))

    def _expire_in(self, delay_s: float) -> None:
        self._expiry = asyncio.get_running_loop().call_later(
            delay_s, self._connection.close, CloseCode.EXPIRED, "the token has expired"
        )


async def _deny(scope: Scope, send: Send, status: int, reason: str) -> None:
    """Answer the handshake with an HTTP status, or with a bare refusal where the server cannot do that."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1013, "reason": reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reason.encode() + b"\n"})

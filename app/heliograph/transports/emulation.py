"""`/connection/http_stream`, `/connection/sse` and their kind: Centrifuge client SDKs without a WebSocket.

The client gets a stream of replies, and posts its commands to `/emulation`: on any replica, which forwards them to
the one with the stream. A client that only listens says everything with its first request.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heliograph.cluster.forwarding import Forwarding
from heliograph.cluster.node import Node
from heliograph.codecs.centrifuge.posts import read_post
from heliograph.codecs.codec import Codec
from heliograph.errors import ErrorCode
from heliograph.hub.outbox import Outboxes
from heliograph.protocol.peer import Inbox, Peer
from heliograph.settings import LimitSettings
from heliograph.telemetry import Traffic
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.addresses import Addresses
from heliograph.transports.body import read_body
from heliograph.transports.centrifuge import CentrifugeConnection, Pings
from heliograph.transports.driver import Drivers
from heliograph.transports.event_stream import MEDIA_TYPE, event_block
from heliograph.transports.handshake import Handshake
from heliograph.transports.http import refusal
from heliograph.transports.peers import Peers, speaking
from heliograph.transports.posted import PostedSocket
from heliograph.transports.query import Query
from heliograph.transports.remote_client import Disconnected
from heliograph.transports.stream_response import StreamFormat, StreamResponse, StreamSink, stream_for

BINARY: Final = "application/octet-stream"
LINES: Final = "application/x-ndjson"
CONNECT: Final = "cf_connect"  # the parameter of a URL that holds the first frame
SESSION_BYTES: Final = 16  # of chance in the name of a session


class StreamCodec(Codec, Protocol):
    """A codec that can say why a stream ends."""

    def encode_disconnect(self, code: int, reason: str) -> bytes:
        """Return the last payload of a stream."""
        ...


@dataclass(frozen=True)
class StreamForm:
    """The form of a stream: its codec, and `block`, which makes a part of the stream from a payload."""

    codec: StreamCodec
    media_type: str
    block: Callable[[bytes], bytes]
    format: StreamFormat

    @classmethod
    def lines(cls, codec: StreamCodec, traffic: Traffic) -> "StreamForm":
        return cls._of(codec, LINES, _line, traffic)

    @classmethod
    def events(cls, codec: StreamCodec, traffic: Traffic) -> "StreamForm":
        return cls._of(codec, MEDIA_TYPE, event_block, traffic)

    @classmethod
    def binary(cls, codec: StreamCodec, traffic: Traffic) -> "StreamForm":
        return cls._of(codec, BINARY, _as_it_is, traffic)

    @classmethod
    def _of(
        cls, codec: StreamCodec, media_type: str, block: Callable[[bytes], bytes], traffic: Traffic
    ) -> "StreamForm":
        return cls(codec, media_type, block, StreamFormat.of(codec, block, traffic, codec.deltas))

    def last_block(self, code: int, reason: str) -> bytes:
        """Return the last part of a stream, which says why it ends."""
        return self.block(self.codec.encode_disconnect(code, reason))


@dataclass(frozen=True)
class StreamEndpoint:
    """Answer a request with a stream. Its client is connected by the frame in the request.

    `transport`: its name; `forms`: by the type of the request's body, '' for any other. `forwarding`: brings posted
    frames; None: the clients only listen. `open_mode`: as in `HandshakeCheck`.
    """

    transport: str
    forms: Mapping[str, StreamForm]
    drivers: Drivers
    outboxes: Outboxes
    by_address: AddressLimits
    limits: LimitSettings
    pings: Pings
    node: Node
    peers: Peers
    forwarding: Forwarding | None
    open_mode: bool

    async def serve(self, request: Request) -> Response:
        if self.node.draining:
            raise Disconnected(ErrorCode.UNAVAILABLE, "this replica is shutting down; try again")
        form = self.forms.get(_type_of(request)) or self.forms[""]
        frame = await self._first_frame(request)
        if frame is None:
            return _too_large(self.limits)
        handshake = Handshake.read(request.scope, self._peer(request, form), open_mode=self.open_mode)
        stream = stream_for(request.scope, keep_alive_s=0)
        socket = PostedSocket(StreamSink(stream, form.last_block), is_binary=form.codec.is_binary)
        outbox = self.outboxes.new(socket)
        outbox.pause()  # until the stream begins
        driver = self.drivers.new(
            form.format.encoding_for(stream),
            outbox,
            peer=handshake.peer,
            channels=handshake.channels,
            on_failed=partial(self.by_address.failed_attempts.failed, handshake.address),
            subscribes_again=self.forwarding is not None,
        )
        # The endpoint counts the connections of an address already.
        by_address = replace(self.by_address, connections=Addresses(limit=0))
        connection = CentrifugeConnection(driver, handshake, form.codec, by_address, self.limits, self.pings, socket)
        socket.attach(outbox, connection)
        inbox = handshake.peer.inbox
        if self.forwarding is not None and inbox is not None:
            self.forwarding.enter(inbox.session, socket)

        async def begin() -> None:
            connection.begin()
            socket.begin(driver.connection, frame)

        def end() -> None:
            if self.forwarding is not None and inbox is not None:
                self.forwarding.leave(inbox.session)
            socket.lost()

        return StreamResponse(stream, outbox, begin, end, media_type=form.media_type)

    def _peer(self, request: Request, form: StreamForm) -> Peer:
        inbox = None
        if self.forwarding is not None:
            inbox = Inbox(self.forwarding.node_id, secrets.token_urlsafe(SESSION_BYTES))
        return msgspec.structs.replace(
            speaking(self.peers.of(request.scope, self.transport), form.codec), inbox=inbox
        )

    async def _first_frame(self, request: Request) -> bytes | None:
        """Return the first frame; None if it is too large."""
        if request.method == "GET":
            frame = Query(request.scope).get(CONNECT, "").encode(errors="surrogateescape")
            return frame if len(frame) <= self.limits.frame_bytes else None
        return await read_body(request, self.limits.frame_bytes)


@dataclass(frozen=True)
class PostEndpoint:
    """Answer `POST /emulation`: bring the frame to its session. 204: it was taken; 404: there is no such session."""

    forwarding: Forwarding
    limits: LimitSettings

    async def serve(self, request: Request) -> Response:
        # In JSON a frame is a text inside of a text, with twice the size at most in practice.
        body = await read_body(request, 2 * self.limits.frame_bytes)
        if body is None:
            return _too_large(self.limits)
        node_id, session, frame = read_post(body, is_binary=_type_of(request) == BINARY)
        if len(frame) > self.limits.frame_bytes:
            return _too_large(self.limits)
        if await self.forwarding.forward(node_id, session, frame):
            return Response(status_code=204)
        return refusal(ErrorCode.NOT_FOUND, "there is no such session, or it has ended: connect again")


def _too_large(limits: LimitSettings) -> Response:
    text = f"more than {limits.frame_bytes} bytes (HELIOGRAPH_LIMITS__FRAME_BYTES); nothing was done"
    answer = refusal(ErrorCode.BAD_REQUEST, text)
    answer.status_code = 413
    return answer


def _type_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _line(payload: bytes) -> bytes:
    return payload + b"\n"


def _as_it_is(payload: bytes) -> bytes:
    return payload

"""`/ws`: the WebSocket endpoint. It answers the handshake, and opens the connection."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from starlette.types import Message, Receive, Scope, Send

from heliograph.codecs.codec import Codec
from heliograph.hub.deflate import Deflater
from heliograph.hub.frames import Encoding, as_binary_frame, as_text_frame, or_nothing, payload_only
from heliograph.hub.outbox import Outbox, Outboxes
from heliograph.protocol.events import Event
from heliograph.settings import LimitSettings
from heliograph.telemetry import Traffic
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.asgi_sink import AsgiSink
from heliograph.transports.driver import Drivers
from heliograph.transports.handshake import Denial, Handshake, HandshakeCheck, deny
from heliograph.transports.peers import speaking
from heliograph.transports.server_socket import SERVER_SOCKET, ServerSocket
from heliograph.transports.socket_connection import SocketConnection


@dataclass(frozen=True)
class WireFormat:
    """A codec that clients of the endpoint may use, and the framing of its payloads."""

    codec: Codec
    frames: Encoding[bytes]  # WebSocket frames, for our own server
    payloads: Encoding[bytes]  # payloads only, for other servers
    compressed: dict[Deflater, Encoding[bytes]] = field(default_factory=dict)  # frames that it compresses

    @classmethod
    def of(cls, codec: Codec, traffic: Traffic) -> "WireFormat":
        frames = _frames(codec, traffic, as_binary_frame if codec.is_binary else as_text_frame)
        return cls(codec, frames, Encoding(codec, payload_only, traffic, deltas=codec.deltas))

    def frames_for(self, socket: ServerSocket) -> Encoding[bytes]:
        """Return the frames for our own server, compressed if the socket's client agreed to that."""
        deflater = socket.deflater
        if deflater is None:
            return self.frames
        if deflater not in self.compressed:
            frame = deflater.as_binary_frame if self.codec.is_binary else deflater.as_text_frame
            self.compressed[deflater] = _frames(self.codec, self.frames.traffic, frame)
        return self.compressed[deflater]


def _frames(codec: Codec, traffic: Traffic, frame: Callable[[bytes, Event], bytes]) -> Encoding[bytes]:
    framed = or_nothing(frame) if codec.is_partial else frame
    return Encoding(codec, framed, traffic, join=b"".join, deltas=codec.deltas)


@dataclass(frozen=True)
class WebSocketEndpoint:
    """The ASGI application behind `/ws`, `/ws/users/{user}` and `/ws/{kind}/{id}`, and a `DirectSocket`.

    `formats`: the codecs that clients may use. A client that offers no subprotocol uses the first.
    """

    handshakes: HandshakeCheck
    drivers: Drivers
    outboxes: Outboxes
    by_address: AddressLimits
    limits: LimitSettings
    formats: tuple[WireFormat, ...]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        handshake = await self.handshakes.check(scope)
        if isinstance(handshake, Denial):
            await deny(scope, send, handshake.status, handshake.reason)
            return
        wire_format, subprotocol = self._choose(scope)
        try:
            await send(_acceptance(subprotocol))
        except BaseException:
            self.by_address.connections.leave(handshake.address)
            raise
        server_socket: ServerSocket | None = scope.get("extensions", {}).get(SERVER_SOCKET)
        if server_socket is not None:
            self._begin(handshake, wire_format, server_socket)
            return
        sink = AsgiSink(receive, send, is_binary=wire_format.codec.is_binary)
        outbox = self.outboxes.new(sink)
        sink.attach(outbox)
        await sink.run(self._connection(handshake, wire_format.codec, wire_format.payloads, outbox))

    def open(self, scope: Scope, socket: ServerSocket, accept: Callable[[str | None], object]) -> bool:
        """Accept the handshake without ASGI: see `DirectSocket`."""
        handshake = self.handshakes.check_now(scope)
        if handshake is None:
            return False
        wire_format, subprotocol = self._choose(scope)
        accept(subprotocol)
        self._begin(handshake, wire_format, socket)
        return True

    def _begin(self, handshake: Handshake, wire_format: WireFormat, socket: ServerSocket) -> None:
        """Open the connection of an accepted client on our own server."""
        outbox = self.outboxes.new(socket)
        frames = wire_format.frames_for(socket)
        connection = self._connection(handshake, wire_format.codec, frames, outbox, socket)
        socket.attach(outbox, connection)
        connection.begin()

    def _choose(self, scope: Scope) -> tuple[WireFormat, str | None]:
        """Choose the first known subprotocol that the client offers, and its codec."""
        for offered in scope.get("subprotocols", ()):
            for wire_format in self.formats:
                if offered in wire_format.codec.subprotocols:
                    return wire_format, offered
        return self.formats[0], None

    def _connection(
        self,
        handshake: Handshake,
        codec: Codec,
        encoding: Encoding[bytes],
        outbox: Outbox[bytes],
        socket: ServerSocket | None = None,
    ) -> SocketConnection:
        driver = self.drivers.new(
            encoding,
            outbox,
            peer=speaking(handshake.peer, codec),
            only_user=handshake.user,
            channels=handshake.channels,
            on_failed=partial(self.by_address.failed_attempts.failed, handshake.address),
        )
        return SocketConnection(driver, handshake, codec, self.by_address, self.limits, socket)


def _acceptance(subprotocol: str | None) -> Message:
    """Return the acceptance of a handshake."""
    if subprotocol is None:
        return {"type": "websocket.accept"}
    return {"type": "websocket.accept", "subprotocol": subprotocol}

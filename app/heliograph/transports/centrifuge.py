"""`/connection/websocket`: the WebSocket endpoint of Centrifuge client SDKs.

It differs from `/ws` in three things: a client identifies itself by a command, whatever its URL says; the server's
pings are messages; after a gap, a client subscribes again.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.types import Scope

from heliograph.codecs.codec import Codec
from heliograph.deadlines import Deadlines
from heliograph.hub.frames import Encoding
from heliograph.hub.outbox import Outbox
from heliograph.protocol.actions import Reject
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import ServerPing
from heliograph.protocol.operations import Connect, Operation, PingAnswered
from heliograph.settings import LimitSettings, PingSettings
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.driver import Driver
from heliograph.transports.handshake import Handshake
from heliograph.transports.peers import speaking
from heliograph.transports.remote_client import Disconnected
from heliograph.transports.server_socket import ServerSocket
from heliograph.transports.socket_connection import SocketConnection
from heliograph.transports.websocket import WebSocketEndpoint, WireFormat


class Pings:
    """When the server pings which connection, and how long its answer may take: two timers for all connections."""

    def __init__(self, settings: PingSettings) -> None:
        self._settings = settings
        self._deadlines: tuple[Deadlines[CentrifugeConnection], Deadlines[CentrifugeConnection]] | None = None

    def begin(self, connection: "CentrifugeConnection") -> None:
        """Ping the connection after the interval."""
        self._both()[0].put(connection)

    def sent(self, connection: "CentrifugeConnection") -> None:
        """Await the answer to a ping."""
        self._both()[1].put(connection)

    def answered(self, connection: "CentrifugeConnection") -> None:
        """Ping the connection again after the interval."""
        pings, answers = self._both()
        answers.take_out(connection)
        pings.put(connection)

    def end(self, connection: "CentrifugeConnection") -> None:
        for each in self._both():
            each.take_out(connection)

    def _both(self) -> "tuple[Deadlines[CentrifugeConnection], Deadlines[CentrifugeConnection]]":
        if self._deadlines is None:
            loop, settings = asyncio.get_running_loop(), self._settings
            self._deadlines = (
                Deadlines(loop, settings.interval_s, CentrifugeConnection.ping),
                Deadlines(loop, settings.timeout_s, CentrifugeConnection.on_no_answer),
            )
        return self._deadlines


class UnansweredPings(Pings):
    """The same for clients that only listen: they answer nothing, and show by reading that they live."""

    def sent(self, connection: "CentrifugeConnection") -> None:
        self.begin(connection)


@dataclass(frozen=True)
class CentrifugeEndpoint(WebSocketEndpoint):
    """The ASGI application behind `/connection/websocket`."""

    pings: Pings

    def _choose(self, scope: Scope) -> tuple[WireFormat, str | None]:
        """Choose the format that the URL or the subprotocol names; without either JSON, the first."""
        if b"cf_protocol=protobuf" in scope["query_string"].split(b"&"):
            binary = next((each for each in self.formats if each.codec.is_binary), None)
            if binary is None:  # clients that only listen have JSON alone
                return super()._choose(scope)
            offered = (name for name in scope.get("subprotocols", ()) if name in binary.codec.subprotocols)
            return binary, next(offered, None)
        return super()._choose(scope)

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
            channels=handshake.channels,
            on_failed=partial(self.by_address.failed_attempts.failed, handshake.address),
            subscribes_again=True,
        )
        return CentrifugeConnection(driver, handshake, codec, self.by_address, self.limits, self.pings, socket)


class CentrifugeConnection(SocketConnection):
    """One socket of such a client."""

    __slots__ = ("_is_pinged", "_pings", "_url")

    def __init__(
        self,
        driver: Driver,
        handshake: Handshake,
        codec: Codec,
        by_address: AddressLimits,
        limits: LimitSettings,
        pings: Pings,
        socket: ServerSocket | None = None,
    ) -> None:
        self._url, handshake.connect = handshake.connect, None  # what the URL says of the client
        super().__init__(driver, handshake, codec, by_address, limits, socket)
        self._pings = pings
        self._is_pinged = False  # and has not answered

    def begin(self) -> None:
        if isinstance(self._url, Reject):
            with suppress(Disconnected):
                self._driver.refuse(self._url)
        self._await_connect()
        self._pings.begin(self)

    def lost(self, code: int) -> None:
        self._pings.end(self)
        super().lost(code)

    def ping(self) -> None:
        """Ping the client, unless it has not connected yet."""
        if not self._driver.registered:
            self._pings.begin(self)
            return
        self._is_pinged = True
        self._driver.send(ServerPing())
        self._pings.sent(self)

    def on_no_answer(self) -> None:
        """Close the connection: its client has not answered the ping. Unless the ping or the answer may wait here."""
        if self._work is not None or self._driver.connection.outbox.is_paused:
            self._pings.sent(self)
        else:
            self._driver.connection.close(CloseCode.NO_PONG, "no answer came to a ping")

    def _carry_out(self, operation: Operation) -> None:
        if isinstance(operation, PingAnswered) and self._is_pinged:
            self._is_pinged = False
            self._pings.answered(self)
        elif isinstance(operation, Connect):
            self._connect_as(operation)
        else:
            super()._carry_out(operation)

    def _connect_as(self, stated: Connect) -> None:
        """Carry out the `connect`, which the URL may complete."""
        url, self._url = self._url, None
        if isinstance(url, Connect):
            token, user = stated.token or url.token, stated.user or url.user
            stated = msgspec.structs.replace(stated, token=token, user=user, ticket=url.ticket)
        super()._carry_out(stated)

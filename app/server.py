"""The uvicorn server: a WebSocket class that writes prepared frames, and a SIGTERM that drains before it stops."""

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGISendEvent
from uvicorn.config import LoopFactoryType
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from app.application import Replica, build_replica
from app.cluster.pubsub_manager import get_pubsub_manager
from app.hub.outbox import Outbox
from app.protocol.codes import CloseCode
from app.settings import Settings
from app.transports.sse import ABORT_EXTENSION
from app.transports.websocket import SINK_EXTENSION

logger = logging.getLogger("heliograph.server")

CLOSE_REASON_BYTES = 123  # RFC 6455 section 5.5: a control frame has 125, two of them are the code
CLOSE_TIMEOUT_S = 5.0  # how long a peer has to answer a close frame before its socket is cut
DISCARD_S = 1.0  # how long what a peer still sends is read and thrown away after it broke the protocol
STOP_TIMEOUT_S = 3  # what uvicorn may take after the drain


class FrameWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also lets the application write frames that are ready to go.

    It offers itself in the ASGI scope as a `ServerSink`. Handshake, reading, fragments, ping, pong and the closing
    handshake stay uvicorn's.
    """

    _outbox: Outbox | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][SINK_EXTENSION] = self  # type: ignore[assignment] # not JSON, and meant so

    def attach(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def write(self, frames: list[bytes]) -> None:
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def close(self, code: CloseCode, reason: str) -> None:
        """Say goodbye, and cut the socket if the peer does not answer: one that does not read never would."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        reason = reason.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": int(code), "reason": reason})
        self.conn.send_close(code, reason)
        self._await_farewell(CLOSE_TIMEOUT_S)

    def handle_parser_exception(self) -> None:
        """What came is against the protocol, or too large (1009). The close frame is on its way out already.

        The rest of it is read and thrown away: a socket that is closed with unread bytes is reset, and the reset
        may overtake the close frame.
        """
        if self.close_sent or self.conn.close_sent is None:
            return
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        # The peer's own close frame cannot be read any more, so there is only the time to go by.
        self._await_farewell(DISCARD_S)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # refused, and rightly so: uvicorn would log that it was never completed

    def _await_farewell(self, timeout_s: float) -> None:
        self.stop_keepalive()
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(timeout_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._outbox is not None:
            self._outbox.close(CloseCode.INTERNAL_ERROR, "the socket is gone")  # so that nobody waits for it to drain

    def keepalive_timeout(self) -> None:
        self.close(CloseCode.NO_PONG, "no pong came back")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._outbox is not None:
            self._outbox.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._outbox is not None:
            self._outbox.resume()


class AbortableHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which also lets the application cut off a client that does not read."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT_EXTENSION: self.transport.abort}  # type: ignore[dict-item] # not JSON


class DrainingServer(uvicorn.Server):
    """The first SIGTERM or SIGINT drains the replica and then stops; the second stops at once."""

    def __init__(self, config: uvicorn.Config, replica: Replica) -> None:
        super().__init__(config)
        self._replica = replica
        self._drain_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            logger.info("%s serves on http://%s:%d", self._replica.node.name, self.config.host, self.config.port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_task is not None or not self.started:
            logger.warning("%s: stopping at once", signal.Signals(sig).name)
            self.should_exit = self.force_exit = True
            return
        logger.info("%s: draining; a second signal stops at once", signal.Signals(sig).name)
        self._drain_task = asyncio.get_running_loop().create_task(self._drain(), name="drain")

    async def _drain(self) -> None:
        try:
            await self._replica.node.drain()
        finally:
            self.should_exit = True


def serve(settings: Settings, *, name: str, host: str, port: int) -> int:
    """Run one replica until it is told to stop; returns the process's exit status."""
    replica = build_replica(settings, name, get_pubsub_manager(settings))
    server = DrainingServer(server_config(replica.app, settings, host=host, port=port), replica)
    server.run()
    return 0 if server.started else 1


def server_config(
    app: ASGIApp, settings: Settings, *, host: str, port: int, loop: LoopFactoryType = "uvloop"
) -> uvicorn.Config:
    """How uvicorn is to run a replica's application."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop=loop,
        http=AbortableHttp,
        ws=FrameWebSocket,
        ws_max_size=settings.limits.frame_bytes,
        ws_ping_interval=settings.ping.interval_s,
        ws_ping_timeout=settings.ping.timeout_s,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        backlog=4096,
    )

"""The uvicorn server: its own WebSocket class (`websocket.py`), and a SIGTERM that drains before it stops."""

import asyncio
import gc
import logging
import signal
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import LoopFactoryType
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.application import Replica, build_replica
from app.cluster.pubsub_manager import get_pubsub_manager
from app.server.websocket import FrameWebSocket
from app.settings import Settings
from app.transports.sse import ABORT_EXTENSION

logger = logging.getLogger("heliograph.server")

GC_THRESHOLD = 50_000  # objects that were made and not let go, until the collector looks at the young ones
STOP_TIMEOUT_S = 3  # what uvicorn may take after the drain


def settle_garbage_collection() -> None:
    """What has been made until now stays, so it need not be looked through again; and look more rarely.

    Otherwise a storm of connects spends a third of its time on finding that everything is still in use.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


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
            settle_garbage_collection()
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

"""The uvicorn server: with sockets of our own (`websocket.py`), and a SIGTERM that drains before it stops."""

import asyncio
import gc
import logging
import signal
import socket
from http import HTTPStatus
from types import FrameType
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.config import LoopFactoryType
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.application import Replica, build_replica
from app.cluster.pubsub_manager import get_pubsub_manager
from app.server.handshake import BadHandshake, accept_of
from app.server.websocket import Sockets
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


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and what our sockets share, which uvicorn does not know."""

    sockets: Sockets | None = None  # since the first handshake


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, whose sockets are ours, and which lets the application cut off who does not read."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT_EXTENSION: self.transport.abort}  # type: ignore[dict-item] # not JSON

    def handle_websocket_upgrade(self) -> None:
        self.connections.discard(self)
        try:
            accept = accept_of(self.scope["method"].encode(), self.headers)
            scope = self._websocket_scope()
        except BadHandshake as error:
            self.transport.write(error.response)
            self.transport.close()
            return
        self.transport.set_protocol(self._sockets().open(self.transport, scope, accept))
        self.parser = None  # type: ignore[assignment] # it refers to us, and we are not needed any more

    def _websocket_scope(self) -> Scope:
        url = httptools.parse_url(self.url)
        try:
            path, query = url.path.decode("ascii"), url.query or b""
            query.decode("ascii")
        except UnicodeDecodeError:
            raise BadHandshake(HTTPStatus.BAD_REQUEST, "what is not ASCII in a URL has to be escaped") from None
        wanted = [value.decode("latin-1") for name, value in self.headers if name == b"sec-websocket-protocol"]
        return {
            "type": "websocket",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if self.scheme == "https" else "ws",
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + url.path,
            "query_string": query,
            "headers": self.headers,
            "subprotocols": [each.strip() for value in wanted for each in value.split(",")],
            "state": self.app_state.copy(),
        }

    def _sockets(self) -> Sockets:
        config = self.config
        assert isinstance(config, ServerConfig)  # noqa: S101 - see `server_config`
        if config.sockets is None:
            config.sockets = Sockets(
                self.app,
                self.server_state,
                self.loop,
                max_bytes=config.ws_max_size,
                ping_interval_s=config.ws_ping_interval or 0,
                ping_timeout_s=config.ws_ping_timeout or 0,
            )
        return config.sockets


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
) -> ServerConfig:
    """How uvicorn is to run a replica's application."""
    return ServerConfig(
        app,
        host=host,
        port=port,
        loop=loop,
        http=HttpProtocol,
        ws="websockets-sansio",  # anything but "none": sockets are opened by our HTTP protocol
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

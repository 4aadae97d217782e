"""Serve one replica: uvicorn with our own sockets (`websocket.py`), limits on requests (`http.py`), a watchdog
(`heartbeat.py`), and a drain on SIGTERM."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE, LoopFactoryType

from heliograph.application import Replica, build_replica
from heliograph.cluster.pubsub_manager import get_pubsub_manager
from heliograph.server.forwarded import Believer, believing
from heliograph.server.heartbeat import Heartbeat, Watchdog
from heliograph.server.http import HttpProtocol, ServerConfig
from heliograph.settings import Settings
from heliograph.transports.direct import NO_ENDPOINTS, DirectEndpoints

logger = logging.getLogger(__name__)

GC_THRESHOLD = 50_000  # new objects until the garbage collector looks at the young generation
STOP_TIMEOUT_S = 3  # how long uvicorn may take after the drain


def settle_garbage_collection() -> None:
    """Exempt existing objects from garbage collection, and collect less often.

    Otherwise a storm of connects spends a third of its time on garbage collections that find everything in use.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


class DrainingServer(uvicorn.Server):
    """Drain the replica on the first SIGTERM or SIGINT, then stop; stop at once on the second.

    `internal`: a second server, on a port that clients cannot reach. `watchdog_s`: see `Watchdog`; 0: none.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        replica: Replica,
        heartbeat: Heartbeat,
        internal: ServerConfig | None = None,
        watchdog_s: float = 0,
    ) -> None:
        super().__init__(config)
        self._replica = replica
        self._heartbeat = heartbeat
        self._internal = internal
        self._watchdog_s = watchdog_s
        self._watchdog: Watchdog | None = None
        self._drain_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        internal = None if self._internal is None else await self._listen_inside(self._internal)
        try:
            await super().startup(sockets)
        finally:
            if internal is not None and not self.started:
                internal.close()
        if self.started:
            if internal is not None:
                self.servers.append(internal)  # so that it is closed with the others
            settle_garbage_collection()
            logger.info("%s serves on http://%s:%d", self._replica.node.name, self.config.host, self.config.port)

    async def _listen_inside(self, config: ServerConfig) -> asyncio.Server:
        config.load()
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_server(
                lambda: HttpProtocol(config, self.server_state, {}), config.host, config.port, backlog=config.backlog
            )
        except OSError as error:
            where = f"{config.host} port {config.port}"
            logger.error("HELIOGRAPH_INTERNAL__PORT: cannot listen on %s: %s", where, error.strerror)
            sys.exit(STARTUP_FAILURE)

    async def main_loop(self) -> None:
        if self._watchdog_s:
            self._watchdog = Watchdog(self._watchdog_s)
        try:
            await super().main_loop()
        finally:
            if self._watchdog is not None:
                self._watchdog.stop()

    async def on_tick(self, counter: int) -> bool:
        self._heartbeat.beat()
        if self._watchdog is not None:
            self._watchdog.beat()
        if self._replica.node.gave_up is not None and self._drain_task is None:
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_task is not None or not self.started:
            logger.warning("received %s again: stopping at once, without draining", signal.Signals(sig).name)
            self.should_exit = self.force_exit = True
            return
        logger.info("received %s: draining; a second signal stops at once", signal.Signals(sig).name)
        self._drain_task = asyncio.get_running_loop().create_task(self._drain(), name="drain")

    async def _drain(self) -> None:
        try:
            await self._replica.node.drain()
        finally:
            self.should_exit = True


def serve(settings: Settings, *, name: str, host: str, port: int) -> int:
    """Run one replica until a signal stops it. Return the exit status of the process."""
    for warning in one_address_warnings(settings, host, os.environ):
        logger.warning("%s", warning)
    replica = build_replica(settings, name, get_pubsub_manager)
    server = build_server(replica, settings, host=host, port=port, watchdog_s=settings.watchdog_s)
    server.run()
    return 0 if server.started and replica.node.gave_up is None else 1


def one_address_warnings(settings: Settings, host: str, environment: Mapping[str, str]) -> list[str]:
    """Return warnings of settings that make all clients look like one address. In open mode that does not matter."""
    if settings.auth.mode == "open":
        return []
    effect = "every client behind it is one address: one replica for all, and one limit"
    warnings = []
    trusted = {each.strip() for each in settings.trusted_proxies.split(",")}
    if host in ("127.0.0.1", "::1", "localhost") and not trusted & {"*", "127.0.0.1", "::1", "127.0.0.0/8", host}:
        warnings.append(f"HELIOGRAPH_TRUSTED_PROXIES does not name {host}, where a proxy has to be: {effect}")
    if environment.get("HELIOGRAPH_NGINX_TRUSTED_PROXIES", "-").strip() == "":
        warnings.append(f"HELIOGRAPH_NGINX_TRUSTED_PROXIES is empty: if nginx is behind a TLS proxy, {effect}")
    return warnings


def build_server(
    replica: Replica,
    settings: Settings,
    *,
    host: str,
    port: int,
    loop: LoopFactoryType = "uvloop",
    watchdog_s: float = 0,
) -> DrainingServer:
    """Build the server of a replica, for its port and, if it has one, its internal port."""
    heartbeat = Heartbeat()
    config = server_config(replica.app, settings, heartbeat, host=host, port=port, loop=loop, direct=replica.direct)
    internal = None
    if replica.internal is not None and settings.internal.port is not None:
        inside, inside_port = settings.internal.host, settings.internal.port
        internal = server_config(replica.internal, settings, heartbeat, host=inside, port=inside_port, loop=loop)
    return DrainingServer(config, replica, heartbeat, internal, watchdog_s)


def server_config(
    app: ASGIApp,
    settings: Settings,
    heartbeat: Heartbeat,
    *,
    host: str,
    port: int,
    loop: LoopFactoryType = "uvloop",
    direct: DirectEndpoints = NO_ENDPOINTS,
) -> ServerConfig:
    """Return uvicorn's configuration for an application of a replica.

    `direct`: the endpoints that answer without it.
    """
    return ServerConfig(
        believing(app, settings.trusted_proxies),
        settings.limits,
        heartbeat,
        direct,
        Believer(settings.trusted_proxies),
        settings.compression,
        host=host,
        port=port,
        loop=loop,
        http=HttpProtocol,
        ws="websockets-sansio",  # anything but "none": our HTTP protocol opens the sockets
        ws_ping_interval=settings.ping.interval_s,
        ws_ping_timeout=settings.ping.timeout_s,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # see `believing`
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        backlog=4096,
    )

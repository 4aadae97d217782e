"""The composition root: the one place that names concrete classes and ties them together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import BaseRoute, WebSocketRoute

from app.backends.memory import MemoryDirectory
from app.backends.redis_directory import RedisDirectory
from app.clock import SystemClock, iso8601
from app.cluster.connection_manager import ConnectionManager
from app.cluster.directory import Directory
from app.cluster.node import Node
from app.cluster.pubsub_manager import PubSubManager
from app.hub.hub import Hub
from app.settings import Settings
from app.telemetry import Telemetry
from app.transports.auth import Authenticator
from app.transports.console import console_routes, static_routes
from app.transports.health import health_routes
from app.transports.websocket import WebSocketDoor

if TYPE_CHECKING:
    from app.backends.protocols import DirectoryBackend


@dataclass(frozen=True)
class Replica:
    """One replica, put together: the parts that a server or a test needs to get hold of."""

    app: Starlette
    node: Node
    hub: Hub
    bus: PubSubManager
    directory: Directory
    manager: ConnectionManager
    telemetry: Telemetry


def build_replica(settings: Settings, name: str = "replica-1", bus: PubSubManager | None = None) -> Replica:
    """Put a replica together; nothing is opened before its application starts up.

    `bus`: the process's PubSubManager; a test that runs several replicas in one process lets each have its own.
    """
    clock = SystemClock()
    telemetry = Telemetry()
    hub = Hub(telemetry)
    bus = bus or PubSubManager(redis=settings.redis, bus=settings.bus)
    bus.stats = telemetry.bus
    backend: DirectoryBackend = RedisDirectory(bus.client, bus.keys) if bus.enabled else MemoryDirectory(clock)
    directory = Directory(backend, hub, node_id=bus.node_id, settings=settings.directory, clock=clock)
    node = Node(name, hub, bus, directory, drain=settings.drain, clock=clock)
    manager = ConnectionManager(
        hub, bus, directory, name=name, limits=settings.limits, timestamp=lambda: iso8601(clock.now())
    )
    bus.handler = manager.handle_pubsub_message
    authenticator = Authenticator(settings.auth)
    door = WebSocketDoor.build(
        manager=manager,
        node=node,
        authenticator=authenticator,
        settings=settings,
        telemetry=telemetry,
        call_soon=lambda callback: asyncio.get_running_loop().call_soon(callback),
    )
    routes: list[BaseRoute] = [
        WebSocketRoute("/ws", door),
        WebSocketRoute("/ws/users/{user:path}", door),
        *health_routes(node, bus, hub, telemetry),
    ]
    routes += static_routes()
    if settings.console_enabled:
        routes += console_routes(node, directory, clock, settings.auth.mode)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await node.start()
        try:
            yield
        finally:
            await node.stop()

    app = Starlette(routes=routes, lifespan=lifespan)
    return Replica(app, node, hub, bus, directory, manager, telemetry)

"""The composition root: the one place that names concrete classes and ties them together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from heliograph.api.health import health_routes, status_routes
from heliograph.api.metrics import metrics_route
from heliograph.api.routes import http_api_routes, openapi_route
from heliograph.auth.authenticator import Authenticator
from heliograph.backends.memory.bus import LocalBus
from heliograph.backends.memory.channel_counts import MemoryChannelCounts
from heliograph.backends.memory.commands import NoCommands
from heliograph.backends.memory.directory import MemoryDirectory
from heliograph.backends.memory.emissions import NoEmissions
from heliograph.backends.memory.log import MemoryLog
from heliograph.backends.memory.presence import MemoryPresence
from heliograph.backends.memory.tickets import MemoryTickets
from heliograph.backends.redis.channel_counts import RedisChannelCounts
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.commands import RedisCommands
from heliograph.backends.redis.directory import RedisDirectory
from heliograph.backends.redis.log import RedisLog, TwoServerLog
from heliograph.backends.redis.memory import RedisMemory
from heliograph.backends.redis.presence import RedisPresence
from heliograph.backends.redis.probe import RedisProbe
from heliograph.backends.redis.run_leases import reap_lost_runs
from heliograph.backends.redis.server import RedisServer
from heliograph.backends.redis.streams import RedisEmissions
from heliograph.backends.redis.tickets import RedisTickets
from heliograph.clock import Clock, SystemClock, Timestamps
from heliograph.cluster.admission import Admission
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.cluster.channel_counts import ChannelCounts
from heliograph.cluster.channels import Channels
from heliograph.cluster.client_writes import ClientWrites
from heliograph.cluster.commands import Commands
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.directory import Directory
from heliograph.cluster.drain import Drain
from heliograph.cluster.emitter import Emitter
from heliograph.cluster.health import Breakdown, Health
from heliograph.cluster.memory_watch import MemoryWatch
from heliograph.cluster.node import Node, Service
from heliograph.cluster.periodic import Periodic
from heliograph.cluster.presence import Presence
from heliograph.cluster.pubsub_manager import PubSubManager, redis_server
from heliograph.cluster.pulse import Pulse
from heliograph.cluster.reading import Reading
from heliograph.cluster.remote_delivery import RemoteDelivery
from heliograph.cluster.stamp import Stamp
from heliograph.cluster.status import Status
from heliograph.cluster.user_commands import UserCommands
from heliograph.cluster.write_probe import WriteProbe
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.console.page import Console, static_routes
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler
from heliograph.ports import Backends, Bus
from heliograph.protocol.budget import Budget, Intake
from heliograph.protocol.events import Join, Leave
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.policy import Policy
from heliograph.settings import Settings
from heliograph.telemetry import Telemetry
from heliograph.transports.addresses import Addresses
from heliograph.transports.driver import Parts
from heliograph.transports.failed_attempts import FailedAttempts
from heliograph.transports.headers import SafeHeaders, internal_error
from heliograph.transports.http import PublicEndpoint
from heliograph.transports.newcomers import Newcomers
from heliograph.transports.origins import OriginPolicy
from heliograph.transports.paths import PlainPaths
from heliograph.transports.polling import PollEndpoint
from heliograph.transports.requests import RequestRate
from heliograph.transports.runs import RunEndpoint
from heliograph.transports.sse import SseEndpoint
from heliograph.transports.started import Started
from heliograph.transports.tickets import TicketEndpoint
from heliograph.transports.websocket import CHANNEL_KINDS, WebSocketEndpoint

logger = logging.getLogger(__name__)

REAP_EVERY_S = 2.0  # how often runs are looked for whose worker is lost
SWEEP_EVERY_S = 60.0  # how often what clients emitted, and nobody has read for long enough, is dropped


@dataclass(frozen=True)
class Replica:
    """One replica, put together: the parts that a server or a test needs to get hold of."""

    app: Starlette
    internal: Starlette | None  # what is kept from clients, if that has a port of its own
    node: Node
    hub: Hub
    backends: Backends
    directory: Directory
    channels: Channels
    manager: ConnectionManager
    reading: Reading
    user_commands: UserCommands
    policy: Policy
    telemetry: Telemetry
    flush_scheduler: FlushScheduler
    memory: MemoryWatch | None  # of the Redis that keeps what is kept; None without one

    @property
    def bus(self) -> Bus:
        return self.backends.bus


MakeBus = Callable[[Settings, RedisServer | None], Bus]


def build_replica(settings: Settings, name: str = "replica-1", make_bus: MakeBus | None = None) -> Replica:
    """Put a replica together; nothing is opened before its application starts up.

    `make_bus`: makes its bus over the server that it is given, None without Redis. A process that is one replica
    gives `get_pubsub_manager`; without it the replica has one of its own.
    """
    clock, telemetry = SystemClock(), Telemetry()
    flush_scheduler = FlushScheduler(lambda callback: asyncio.get_running_loop().call_soon(callback))
    hub = Hub(telemetry, flush_scheduler)
    backends = build_backends(settings, name, hub, clock, make_bus or _bus_of_its_own)
    cluster = build_cluster(settings, name, hub, backends, telemetry, clock)
    app, internal = build_endpoints(settings, cluster, backends, hub, telemetry, flush_scheduler, clock)
    return Replica(
        app,
        internal,
        cluster.node,
        hub,
        backends,
        cluster.directory,
        cluster.channels,
        cluster.manager,
        cluster.reading,
        cluster.user_commands,
        cluster.policy,
        telemetry,
        flush_scheduler,
        cluster.memory,
    )


# -- backends


def build_backends(settings: Settings, name: str, hub: Hub, clock: Clock, make_bus: MakeBus) -> Backends:
    """What a replica needs from outside: in Redis, if the settings name one, otherwise in memory."""
    if settings.redis.url is None:
        return _memory_backends(settings, make_bus(settings, None), hub, clock)
    live = kept = redis_server(settings.redis, settings.bus, name)
    if settings.redis.durable_url is not None:
        kept = RedisServer(
            connect(settings.redis.durable_url, max_connections=settings.redis.max_connections),
            live.keys,
            node_id=live.node_id,
            replica=name,
            publish_time=live.publish_time,
        )
    return _redis_backends(settings, name, make_bus(settings, live), live, kept)


def _memory_backends(settings: Settings, bus: Bus, hub: Hub, clock: Clock) -> Backends:
    def announce(channel: str, user: str, joined: bool) -> None:
        hub.deliver(channel, (Join if joined else Leave)(channel, user))

    return Backends(
        bus=bus,
        directory=MemoryDirectory(clock),
        presence=MemoryPresence(announce),
        channel_counts=MemoryChannelCounts(),
        log=MemoryLog(clock, page_bytes=settings.channels.page_bytes),
        emissions=NoEmissions(),
        commands=NoCommands(),
        tickets=MemoryTickets(clock),
    )


def _redis_backends(settings: Settings, name: str, bus: Bus, live: RedisServer, kept: RedisServer) -> Backends:
    """`live`: the server with the bus and the directory; `kept`: the one that keeps what is kept, or the same."""
    budget, page_bytes = Budget.of(settings.limits), settings.channels.page_bytes
    log = RedisLog(live, budget=budget, page_bytes=page_bytes)
    if kept is not live:
        log = TwoServerLog(kept, live, budget=budget, page_bytes=page_bytes)
    emissions = RedisEmissions(
        kept,
        shards=settings.redis.emit_shards,
        max_entries=settings.redis.emit_maxlen,
        max_bytes=settings.emit.shard_bytes,
        ttl_s=settings.emit.ttl_s,
        budget=budget,
    )
    return Backends(
        bus=bus,
        directory=RedisDirectory(live),
        presence=RedisPresence(live),
        channel_counts=RedisChannelCounts(live),
        log=log,
        emissions=emissions,
        commands=RedisCommands(live),
        tickets=RedisTickets(live),
        probes=[RedisProbe(server, name) for server in dict.fromkeys((live, kept))],
        memory=RedisMemory(kept),
        sweep_emissions=emissions.sweep,
        reap_lost_runs=partial(reap_lost_runs, kept, Namespaces(settings.namespaces)),
        servers=list(dict.fromkeys((live, kept))),
    )


def _bus_of_its_own(settings: Settings, server: RedisServer | None) -> Bus:
    return LocalBus() if server is None else PubSubManager(server, bus=settings.bus)


# -- the cluster


@dataclass(frozen=True)
class Cluster:
    """What makes one of many replicas out of a hub and what is outside."""

    node: Node
    directory: Directory
    channels: Channels
    manager: ConnectionManager
    reading: Reading
    user_commands: UserCommands
    emitter: Emitter
    channel_counts: ChannelCounts
    blocked: BlockedUsers
    memory: MemoryWatch | None
    namespaces: Namespaces
    policy: Policy


def build_cluster(
    settings: Settings, name: str, hub: Hub, backends: Backends, telemetry: Telemetry, clock: Clock
) -> Cluster:
    bus, node_id = backends.bus, backends.bus.node_id
    namespaces = Namespaces(settings.namespaces)
    directory = Directory(backends.directory, hub, node_id=node_id, settings=settings.directory, clock=clock)
    channels = Channels(hub, backends.log, bus, namespaces, settings.channels, telemetry)
    presence = Presence(backends.presence, directory, namespaces, grace_s=settings.presence.grace_s)
    channel_counts = ChannelCounts(backends.channel_counts, directory, hub)
    blocked = BlockedUsers(clock)
    commands = Commands(hub, backends.commands, blocked, node_id=node_id, clock=clock)
    pulse = Pulse(telemetry, clock)
    memory = None
    if backends.memory is not None:
        memory = MemoryWatch(backends.memory.share, settings.limits.client_memory_percent / 100)
    timestamp = Timestamps(clock)
    stamp = Stamp(name, node_id, timestamp)
    writes = ClientWrites(Budget.of(settings.limits), memory, telemetry, clock.monotonic)
    reading = Reading(channels.joining, presence, backends.log)
    manager = ConnectionManager(
        hub,
        bus,
        directory,
        backends.log,
        channels.following,
        RemoteDelivery(hub, channels.following, commands, node_id, timestamp),
        Admission(hub, directory, reading, settings.limits),
        writes,
        namespaces,
        stamp,
    )
    breakdown = Breakdown()
    probes = [
        WriteProbe(
            probe,
            is_vital=number == 0,  # without the others, users are still served what is ephemeral
            interval_s=settings.bus.canary_interval_s,
            timeout_s=settings.bus.canary_timeout_s,
            clock=clock,
            give_up=breakdown.give_up,
        )
        for number, probe in enumerate(backends.probes)
    ]
    health = Health(bus, probes, memory, breakdown)
    services: list[Service] = [*probes, *filter(None, [memory]), channels, pulse, presence, channel_counts, commands]
    if backends.sweep_emissions is not None:
        services.append(Periodic("sweeper", "sweeping old entries", backends.sweep_emissions, SWEEP_EVERY_S))
    if backends.reap_lost_runs is not None:
        services.append(Periodic("run-reaper", "search for lost runs", backends.reap_lost_runs, REAP_EVERY_S))
    node = Node(
        backends,
        directory,
        Status(name, hub, bus, health, pulse, clock),
        health,
        Drain(hub, channels.joining.positions_of, settings.drain),
        services,
        handler=manager.handle_pubsub_message,
        on_resubscribed=_in_turn(channels.following.lost_track, commands.lost_track),
    )
    return Cluster(
        node,
        directory,
        channels,
        manager,
        reading,
        UserCommands(commands, backends.commands, stamp),
        Emitter(backends.emissions, writes, stamp),
        channel_counts,
        blocked,
        memory,
        namespaces,
        Policy(namespaces, open_mode=settings.auth.mode == "open", events=settings.emit.events),
    )


def _in_turn(*calls: Callable[[], object]) -> Callable[[], None]:
    """One call that makes several."""

    def call_all() -> None:
        for call in calls:
            call()

    return call_all


# -- endpoints


def build_endpoints(
    settings: Settings,
    cluster: Cluster,
    backends: Backends,
    hub: Hub,
    telemetry: Telemetry,
    flush_scheduler: FlushScheduler,
    clock: Clock,
) -> tuple[Starlette, Starlette | None]:
    """The application that clients reach, and one of what is kept from them, if that has a port of its own."""
    node, directory = cluster.node, cluster.directory
    authenticator = Authenticator(settings.auth, backends.tickets, cluster.blocked)
    policy = cluster.policy
    parts = Parts(
        manager=cluster.manager,
        reading=cluster.reading,
        emitter=cluster.emitter,
        node=node,
        authenticator=authenticator,
        addresses=Addresses(settings.limits.connections_per_address),
        failed_attempts=FailedAttempts(settings.limits.failed_attempts_per_minute, telemetry),
        newcomers=Newcomers(settings.limits.newcomers_per_address),
        settings=settings,
        telemetry=telemetry,
        namespaces=cluster.namespaces,
        requests=RequestRate(settings.limits.requests_per_second, "user", "REQUESTS_PER_SECOND", telemetry),
        policy=policy,
        flush_scheduler=flush_scheduler,
        intake=Intake(settings.limits),
    )
    origins = OriginPolicy(
        settings.allowed_origins, open_mode=policy.open_mode, open_to_network=settings.auth.open_to_network
    )
    codec = PlainCodec(settings.limits.depth)
    endpoint = WebSocketEndpoint.build(parts, origins, [codec])
    by_address = RequestRate(
        settings.limits.requests_per_second_per_address, "address", "REQUESTS_PER_SECOND_PER_ADDRESS", telemetry
    )
    public_endpoint = partial(PublicEndpoint, origins, parts.addresses, by_address, parts.failed_attempts)
    polls = PollEndpoint(parts, codec)
    routes: list[BaseRoute] = [
        WebSocketRoute("/ws", endpoint),
        WebSocketRoute("/ws/users/{user:path}", endpoint),
        *(WebSocketRoute(f"/ws/{kind}/{{{kind}:path}}", endpoint) for kind in CHANNEL_KINDS),
        Route("/api/ticket", public_endpoint(TicketEndpoint(authenticator, parts.requests).serve, "POST")),
        Route("/sse", public_endpoint(SseEndpoint.build(parts, codec).serve)),
        Route("/api/poll", public_endpoint(polls.serve)),
        Route("/api/runs/{run_id:path}", public_endpoint(RunEndpoint(parts).serve)),
    ]
    bus = backends.bus
    inside = [*health_routes(node, bus), metrics_route(node, bus, hub, telemetry, cluster.memory), openapi_route()]
    has_inside = settings.internal.port is not None
    routes += status_routes(node) if has_inside else inside
    routes += static_routes()
    if settings.console_enabled:
        console = Console(node, directory, clock, authenticator, settings.api.secret())
        routes += [Route("/", console.page), Route("/api/cluster", public_endpoint(console.cluster))]
    routes += http_api_routes(parts, cluster.user_commands, directory, cluster.channel_counts, clock)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        logger.log(logging.WARNING if policy.open_mode else logging.INFO, "%s", policy.summary())
        await node.start()
        try:
            yield
        finally:
            await polls.stop()
            await authenticator.stop()
            await node.stop()

    middleware, on_error = [Middleware(SafeHeaders), Middleware(PlainPaths)], {Exception: internal_error}
    app = Starlette(
        routes=routes,
        middleware=[*middleware, Middleware(Started, node)],
        exception_handlers=on_error,
        lifespan=lifespan,
    )
    internal = Starlette(routes=inside, middleware=middleware, exception_handlers=on_error) if has_inside else None
    return app, internal

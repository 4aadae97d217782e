"""The composition root: the only place that names concrete classes and connects them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from heliograph.api.channel_reads import ChannelReads
from heliograph.api.health import health_routes, status_routes
from heliograph.api.methods import Methods
from heliograph.api.metrics import metrics_route
from heliograph.api.routes import direct_endpoints, http_api_routes, openapi_route
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
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, EventFrame
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler, Outboxes
from heliograph.ports import Backends, Bus, Handler
from heliograph.protocol.budget import Budget, Intake
from heliograph.protocol.events import Join, Leave
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.policy import Policy
from heliograph.protocol.position import Position
from heliograph.protocol.session import Session
from heliograph.settings import Settings
from heliograph.telemetry import Telemetry
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.direct import DirectEndpoint
from heliograph.transports.driver import Drivers, Router
from heliograph.transports.handshake import CHANNEL_KINDS, HandshakeCheck
from heliograph.transports.headers import SafeHeaders, internal_error
from heliograph.transports.http import PublicEndpoint
from heliograph.transports.origins import OriginPolicy
from heliograph.transports.paths import PlainPaths
from heliograph.transports.polling import PollConnection, PollEndpoint
from heliograph.transports.requests import RequestRate
from heliograph.transports.runs import RunEndpoint
from heliograph.transports.sse import SseEndpoint, in_block
from heliograph.transports.started import Started
from heliograph.transports.tickets import TicketEndpoint
from heliograph.transports.websocket import Language, WebSocketEndpoint

logger = logging.getLogger(__name__)

REAP_EVERY_S = 2.0  # how often to look for runs that lost their worker
SWEEP_EVERY_S = 60.0  # how often to drop emissions whose time to live is over


@dataclass(frozen=True)
class Replica:
    """One replica, with the parts that a server or a test needs."""

    app: Starlette
    internal: Starlette | None  # endpoints that clients cannot reach, if they have a port of their own
    direct: Mapping[bytes, DirectEndpoint]  # what our server answers without an application, by URL
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
    memory: MemoryWatch | None  # of the Redis that keeps messages; None without one

    @property
    def bus(self) -> Bus:
        return self.backends.bus


MakeBus = Callable[[Settings, RedisServer | None], Bus]


@dataclass(frozen=True)
class _Ground:
    """What every part of a replica needs."""

    settings: Settings
    name: str
    clock: Clock
    telemetry: Telemetry
    flush_scheduler: FlushScheduler
    hub: Hub


def build_replica(settings: Settings, name: str = "replica-1", make_bus: MakeBus | None = None) -> Replica:
    """Build a replica; nothing is opened before its application starts.

    `make_bus`: makes its bus from the Redis server, or from None without Redis. A process that is one replica passes
    `get_pubsub_manager`; by default the replica has a bus of its own.
    """
    clock, telemetry = SystemClock(), Telemetry()
    flush_scheduler = FlushScheduler(lambda callback: asyncio.get_running_loop().call_soon(callback))
    hub = Hub(telemetry, flush_scheduler)
    ground = _Ground(settings, name, clock, telemetry, flush_scheduler, hub)
    backends = _build_backends(ground, make_bus or _bus_of_its_own)
    cluster = _build_cluster(ground, backends)
    app, internal, direct = _build_endpoints(ground, backends, cluster)
    return Replica(
        app,
        internal,
        direct,
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


def _build_backends(ground: _Ground, make_bus: MakeBus) -> Backends:
    """Build what a replica needs from outside: in Redis, if the settings name one, otherwise in memory."""
    settings = ground.settings
    redis = settings.redis
    bus = make_bus(settings, None if redis.url is None else redis_server(redis, settings.bus, ground.name))
    if not isinstance(bus, PubSubManager):
        return _memory_backends(ground, bus)
    live = kept = bus.server  # one that was made before, if the process had its manager before it had a replica
    if redis.durable_url is not None:
        kept = RedisServer(
            connect(redis.durable_url, max_connections=redis.max_connections),
            live.keys,
            node_id=live.node_id,
            replica=ground.name,
            publish_time=live.publish_time,
        )
    return _redis_backends(ground, bus, live, kept)


def _memory_backends(ground: _Ground, bus: Bus) -> Backends:
    def announce(channel: str, user: str, joined: bool) -> None:
        ground.hub.deliver(channel, (Join if joined else Leave)(channel, user))

    return Backends(
        bus=bus,
        directory=MemoryDirectory(ground.clock),
        presence=MemoryPresence(announce),
        channel_counts=MemoryChannelCounts(),
        log=MemoryLog(ground.clock, page_bytes=ground.settings.channels.page_bytes),
        emissions=NoEmissions(),
        commands=NoCommands(),
        tickets=MemoryTickets(ground.clock),
    )


def _redis_backends(ground: _Ground, bus: Bus, live: RedisServer, kept: RedisServer) -> Backends:
    """`live`: the server with the bus and the directory; `kept`: the one that keeps messages, or the same."""
    settings = ground.settings
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
        probes=[RedisProbe(server, ground.name) for server in dict.fromkeys((live, kept))],
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
    """The parts that make a hub and its backends one of many replicas."""

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


def _build_cluster(ground: _Ground, backends: Backends) -> Cluster:
    settings, hub, clock, telemetry = ground.settings, ground.hub, ground.clock, ground.telemetry
    bus, node_id = backends.bus, backends.bus.node_id
    namespaces = Namespaces(settings.namespaces)
    directory = Directory(backends.directory, hub, node_id=node_id, settings=settings.directory, clock=clock)
    channels = Channels(hub, backends.log, bus, namespaces, settings.channels, telemetry)
    presence = Presence(backends.presence, directory, namespaces, grace_s=settings.presence.grace_s)
    channel_counts = ChannelCounts(backends.channel_counts, directory, hub)
    blocked = BlockedUsers(clock)
    commands = Commands(hub, backends.commands, blocked, node_id=node_id, clock=clock)
    memory = None
    if backends.memory is not None:
        memory = MemoryWatch(backends.memory.share, settings.limits.client_memory_percent / 100)
    timestamp = Timestamps(clock)
    stamp = Stamp(ground.name, node_id, timestamp)
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
    services: list[Service] = [channels, presence, channel_counts, commands, *_chores(backends)]
    node = _build_node(
        ground,
        backends,
        directory,
        memory,
        services,
        positions_of=channels.joining.positions_of,
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


def _build_node(
    ground: _Ground,
    backends: Backends,
    directory: Directory,
    memory: MemoryWatch | None,
    services: Sequence[Service],
    *,
    positions_of: Callable[[Connection], Mapping[str, Position]],
    handler: Handler,
    on_resubscribed: Callable[[], object],
) -> Node:
    """The replica as a member of the cluster; what watches over it starts before `services`."""
    hub, clock, settings = ground.hub, ground.clock, ground.settings
    breakdown, pulse = Breakdown(), Pulse(ground.telemetry, clock)
    probes = [
        WriteProbe(
            probe,
            is_vital=number == 0,  # without the others, ephemeral messages still work
            interval_s=settings.bus.canary_interval_s,
            timeout_s=settings.bus.canary_timeout_s,
            clock=clock,
            give_up=breakdown.give_up,
        )
        for number, probe in enumerate(backends.probes)
    ]
    health = Health(backends.bus, probes, memory, breakdown)
    watches: list[Service] = [*probes, *filter(None, [memory]), pulse]
    return Node(
        backends,
        directory,
        Status(ground.name, hub, backends.bus, health, pulse, clock),
        health,
        Drain(hub, positions_of, settings.drain),
        [*watches, *services],
        handler=handler,
        on_resubscribed=on_resubscribed,
    )


def _chores(backends: Backends) -> list[Service]:
    """What any number of replicas do now and then for all of them."""
    chores: list[Service] = []
    if backends.sweep_emissions is not None:
        chores.append(Periodic("sweeper", "sweeping old entries", backends.sweep_emissions, SWEEP_EVERY_S))
    if backends.reap_lost_runs is not None:
        chores.append(Periodic("run-reaper", "search for lost runs", backends.reap_lost_runs, REAP_EVERY_S))
    return chores


def _in_turn(*calls: Callable[[], object]) -> Callable[[], None]:
    """Return one call that makes several."""

    def call_all() -> None:
        for call in calls:
            call()

    return call_all


# -- endpoints


@dataclass(frozen=True)
class _Clients:
    """What the endpoints of clients share."""

    drivers: Drivers
    outboxes: Outboxes
    codec: PlainCodec
    authenticator: Authenticator
    origins: OriginPolicy
    by_address: AddressLimits
    requests: RequestRate  # by user


def _build_endpoints(
    ground: _Ground, backends: Backends, cluster: Cluster
) -> tuple[Starlette, Starlette | None, Mapping[bytes, DirectEndpoint]]:
    """The application that clients reach, one of what is kept from them if that has a port of its own, and what our
    server answers without an application."""
    settings, node, telemetry = ground.settings, cluster.node, ground.telemetry
    clients = _build_clients(ground, backends, cluster)
    public_endpoint = partial(PublicEndpoint, clients.origins, clients.by_address)
    methods = _build_methods(ground, cluster)
    polls = _build_polls(ground, cluster, clients)
    metrics = metrics_route(node, backends.bus, ground.hub, telemetry, cluster.memory)
    inside = [*health_routes(node, backends.bus), metrics, openapi_route()]
    has_inside = settings.internal.port is not None
    routes = [
        *_client_routes(ground, cluster, clients, public_endpoint, polls),
        *(status_routes(node) if has_inside else inside),
        *static_routes(),
        *(_console_routes(ground, cluster, clients, public_endpoint) if settings.console_enabled else []),
        *http_api_routes(methods, settings.api, clients.by_address.failed_attempts),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        policy = cluster.policy
        logger.log(logging.WARNING if policy.open_mode else logging.INFO, "%s", policy.summary())
        await node.start()
        try:
            yield
        finally:
            await polls.stop()
            await clients.authenticator.stop()
            await node.stop()

    middleware, on_error = [Middleware(SafeHeaders), Middleware(PlainPaths)], {Exception: internal_error}
    app = Starlette(
        routes=routes,
        middleware=[*middleware, Middleware(Started, node)],
        exception_handlers=on_error,
        lifespan=lifespan,
    )
    internal = Starlette(routes=inside, middleware=middleware, exception_handlers=on_error) if has_inside else None
    return app, internal, direct_endpoints(methods, settings.api)


def _build_clients(ground: _Ground, backends: Backends, cluster: Cluster) -> _Clients:
    settings, telemetry, policy = ground.settings, ground.telemetry, cluster.policy
    limits = settings.limits
    authenticator = Authenticator(settings.auth, backends.tickets, cluster.blocked)
    open_session = partial(
        Session,
        replica=cluster.node.name,
        policy=policy,
        ping_interval_s=settings.ping.interval_s,
        max_channels=limits.channels_per_connection,
    )
    router = Router(cluster.manager, cluster.reading, cluster.emitter)
    return _Clients(
        Drivers(open_session, router, authenticator, cluster.node, Intake(limits), telemetry),
        Outboxes(ground.flush_scheduler, limits.outbox_bytes),
        PlainCodec(limits.depth),
        authenticator,
        OriginPolicy(
            settings.allowed_origins, open_mode=policy.open_mode, open_to_network=settings.auth.open_to_network
        ),
        AddressLimits.of(limits, telemetry),
        RequestRate(limits.requests_per_second, "user", "REQUESTS_PER_SECOND", telemetry),
    )


def _build_methods(ground: _Ground, cluster: Cluster) -> Methods:
    return Methods(
        cluster.manager,
        ChannelReads(cluster.reading, cluster.channel_counts, cluster.namespaces),
        cluster.user_commands,
        cluster.directory,
        ground.clock,
        ground.telemetry.traffic["api"],
        max_depth=ground.settings.limits.depth,
        most_commands=ground.settings.api.batch,
    )


def _build_polls(ground: _Ground, cluster: Cluster, clients: _Clients) -> PollEndpoint:
    settings = ground.settings
    open_connection = partial(
        PollConnection,
        clients.drivers,
        clients.outboxes,
        Encoding(clients.codec, EventFrame, ground.telemetry.traffic["poll"]),
        most_bytes=settings.poll.answer_bytes,
        most_channels=settings.limits.channels_per_connection,
    )
    return PollEndpoint(
        open_connection, clients.authenticator, clients.requests, cluster.node, linger_s=settings.poll.linger_s
    )


def _client_routes(
    ground: _Ground,
    cluster: Cluster,
    clients: _Clients,
    public_endpoint: Callable[..., PublicEndpoint],
    polls: PollEndpoint,
) -> list[BaseRoute]:
    settings, traffic, policy = ground.settings, ground.telemetry.traffic, cluster.policy
    authenticator, requests = clients.authenticator, clients.requests
    socket = WebSocketEndpoint(
        HandshakeCheck(
            cluster.node,
            clients.origins,
            authenticator,
            clients.by_address,
            ground.telemetry,
            open_mode=policy.open_mode,
        ),
        clients.drivers,
        clients.outboxes,
        clients.by_address,
        settings.limits,
        (Language.of(clients.codec, traffic["websocket"]),),
    )
    stream = SseEndpoint(
        clients.drivers,
        clients.outboxes,
        Encoding(clients.codec, in_block, traffic["sse"]),
        authenticator,
        requests,
        keep_alive_s=settings.ping.interval_s,
    )
    ticket = TicketEndpoint(authenticator, requests)
    run = RunEndpoint(cluster.reading, policy, authenticator, requests)
    return [
        WebSocketRoute("/ws", socket),
        WebSocketRoute("/ws/users/{user:path}", socket),
        *(WebSocketRoute(f"/ws/{kind}/{{{kind}:path}}", socket) for kind in CHANNEL_KINDS),
        Route("/api/ticket", public_endpoint(ticket.serve, "POST")),
        Route("/sse", public_endpoint(stream.serve)),
        Route("/api/poll", public_endpoint(polls.serve)),
        Route("/api/runs/{run_id:path}", public_endpoint(run.serve)),
    ]


def _console_routes(
    ground: _Ground, cluster: Cluster, clients: _Clients, public_endpoint: Callable[..., PublicEndpoint]
) -> list[BaseRoute]:
    key = ground.settings.api.secret()
    console = Console(cluster.node, cluster.directory, ground.clock, clients.authenticator, key)
    return [Route("/", console.page), Route("/api/cluster", public_endpoint(console.cluster))]

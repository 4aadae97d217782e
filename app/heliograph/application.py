"""The composition root: the one place that names concrete classes and ties them together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from heliograph.api import http_api_routes, openapi_route
from heliograph.api.health import health_routes, status_routes
from heliograph.api.metrics import metrics_route
from heliograph.auth.authenticator import Authenticator
from heliograph.backends.memory.channel_counts import MemoryChannelCounts
from heliograph.backends.memory.directory import MemoryDirectory, NoCommands, NoEmissions
from heliograph.backends.memory.log import MemoryLog
from heliograph.backends.memory.presence import MemoryPresence
from heliograph.backends.redis.channel_counts import RedisChannelCounts
from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.commands import RedisCommands
from heliograph.backends.redis.directory import RedisDirectory
from heliograph.backends.redis.log import RedisLog, TwoServerLog
from heliograph.backends.redis.memory import RedisMemory
from heliograph.backends.redis.presence import RedisPresence
from heliograph.backends.redis.probe import RedisProbe
from heliograph.backends.redis.run_leases import reap_lost_runs
from heliograph.backends.redis.scripts import Scripts
from heliograph.backends.redis.streams import RedisEmissions
from heliograph.backends.tickets import MemoryTickets, RedisTickets
from heliograph.clock import SystemClock, Timestamps
from heliograph.cluster.admission import Admission
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.cluster.channel_counts import ChannelCounts
from heliograph.cluster.channels import Channels
from heliograph.cluster.client_writes import ClientWrites
from heliograph.cluster.commands import Commands
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.directory import Directory
from heliograph.cluster.emitter import Emitter
from heliograph.cluster.memory_watch import MemoryWatch
from heliograph.cluster.node import Node, Service
from heliograph.cluster.periodic import Periodic
from heliograph.cluster.presence import Presence
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.cluster.pulse import Pulse
from heliograph.cluster.reading import Reading
from heliograph.cluster.remote_delivery import RemoteDelivery
from heliograph.cluster.stamp import Stamp
from heliograph.cluster.user_commands import UserCommands
from heliograph.cluster.write_probe import WriteProbe
from heliograph.codecs.plain import PlainCodec
from heliograph.console import Console, static_routes
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler
from heliograph.protocol.budget import Budget, intake
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

if TYPE_CHECKING:
    from heliograph.ports import (
        ChannelCountsBackend,
        CommandLog,
        DirectoryBackend,
        Emissions,
        Log,
        PresenceBackend,
        Tickets,
    )


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
    bus: PubSubManager
    directory: Directory
    channels: Channels
    manager: ConnectionManager
    reading: Reading
    user_commands: UserCommands
    telemetry: Telemetry
    flush_scheduler: FlushScheduler
    memory: MemoryWatch | None  # of the Redis that keeps what is kept; None without one


def build_replica(settings: Settings, name: str = "replica-1", bus: PubSubManager | None = None) -> Replica:
    """Put a replica together; nothing is opened before its application starts up.

    `bus`: the process's PubSubManager; a test that runs several replicas in one process lets each have its own.
    """
    clock = SystemClock()
    telemetry = Telemetry()
    flush_scheduler = FlushScheduler(lambda callback: asyncio.get_running_loop().call_soon(callback))
    hub = Hub(telemetry, flush_scheduler)
    bus = bus or PubSubManager(redis=settings.redis, bus=settings.bus)
    bus.stats = telemetry.bus
    bus.name = name
    namespaces = Namespaces(settings.namespaces)
    budget = Budget.of(settings.limits)
    backend: DirectoryBackend
    present: PresenceBackend
    heard: ChannelCountsBackend
    memory: MemoryWatch | None = None
    log: Log
    emissions: Emissions
    command_log: CommandLog
    tickets: Tickets
    probes: list[WriteProbe] = []
    durable: Client | None = None  # a client of our own, if what is kept has a server of its own
    page_bytes = settings.channels.page_bytes
    if bus.enabled:
        backend = RedisDirectory(bus.client, bus.keys, bus.scripts)
        present = RedisPresence(bus.client, bus.scripts, bus.keys, bus.channel)
        command_log = RedisCommands(bus.client, bus.keys, bus.channel)
        tickets = RedisTickets(bus.client, bus.keys)
        heard = RedisChannelCounts(bus.client, bus.scripts, bus.keys)
        kept_scripts = bus.scripts
        log = RedisLog(
            bus.client, bus.scripts, bus.keys, bus.channel, bus.node_id, budget=budget, page_bytes=page_bytes
        )
        if settings.redis.durable_url is not None:
            durable = connect(settings.redis.durable_url, max_connections=settings.redis.max_connections)
            kept_scripts = Scripts(durable, bus.keys, bus.script_owner, publish_time=bus.stats.publish_time)
            log = TwoServerLog(
                durable,
                kept_scripts,
                bus.keys,
                bus.channel,
                bus.node_id,
                live=bus.client,
                live_scripts=bus.scripts,
                budget=budget,
                page_bytes=page_bytes,
            )
        probes = [
            WriteProbe(
                RedisProbe(scripts, name),
                is_vital=scripts is bus.scripts,  # without the other, users are still served what is ephemeral
                interval_s=settings.bus.canary_interval_s,
                timeout_s=settings.bus.canary_timeout_s,
                clock=clock,
            )
            for scripts in dict.fromkeys((bus.scripts, kept_scripts))
        ]
        memory = MemoryWatch(RedisMemory(durable or bus.client).share, settings.limits.client_memory_percent / 100)
        emissions = RedisEmissions(
            durable or bus.client,
            kept_scripts,
            bus.keys,
            shards=settings.redis.emit_shards,
            max_entries=settings.redis.emit_maxlen,
            max_bytes=settings.emit.shard_bytes,
            ttl_s=settings.emit.ttl_s,
            budget=budget,
        )
    else:
        backend, log, emissions, command_log = (
            MemoryDirectory(clock),
            MemoryLog(clock, page_bytes=page_bytes),
            NoEmissions(),
            NoCommands(),
        )
        tickets = MemoryTickets(clock)
        heard = MemoryChannelCounts()
        present = MemoryPresence(
            lambda channel, user, joined: hub.deliver(channel, (Join if joined else Leave)(channel, user))
        )
    directory = Directory(backend, hub, node_id=bus.node_id, settings=settings.directory, clock=clock)
    channels = Channels(hub, log, bus, namespaces, settings.channels, telemetry)
    presence = Presence(present, directory, namespaces, grace_s=settings.presence.grace_s)
    channel_counts = ChannelCounts(heard, directory, hub)
    blocked = BlockedUsers(clock)
    commands = Commands(hub, command_log, blocked, node_id=bus.node_id, clock=clock)
    pulse = Pulse(telemetry, clock)
    services: list[Service] = [presence, channel_counts, commands]
    if bus.enabled:
        reap = partial(reap_lost_runs, kept_scripts, bus.keys, bus.channel, namespaces)
        services.append(Periodic("sweeper", "sweeping old entries", emissions.sweep, SWEEP_EVERY_S))
        services.append(Periodic("run-reaper", "search for lost runs", reap, REAP_EVERY_S))
    node = Node(
        name,
        hub,
        bus,
        directory,
        channels,
        pulse,
        probes,
        services,
        memory=memory,
        drain=settings.drain,
        clock=clock,
    )
    timestamp = Timestamps(clock)
    stamp = Stamp(name, bus.node_id, timestamp)
    writes = ClientWrites(budget, memory, telemetry, clock.monotonic)
    reading = Reading(channels.joining, presence, log)
    user_commands = UserCommands(commands, command_log, stamp)
    manager = ConnectionManager(
        hub,
        bus,
        directory,
        log,
        channels.following,
        RemoteDelivery(hub, channels.following, commands, bus.node_id, timestamp),
        Admission(hub, directory, reading, settings.limits),
        writes,
        namespaces,
        stamp,
    )
    bus.handler = manager.handle_pubsub_message
    hub.on_drop = manager.disconnect
    bus.on_resubscribed = _in_turn(channels.following.lost_track, commands.lost_track)
    authenticator = Authenticator(settings.auth, tickets, blocked)
    policy = Policy(namespaces, open_mode=authenticator.mode == "open", events=settings.emit.events)
    parts = Parts(
        manager=manager,
        reading=reading,
        emitter=Emitter(emissions, writes, stamp),
        node=node,
        authenticator=authenticator,
        addresses=Addresses(settings.limits.connections_per_address),
        failed_attempts=FailedAttempts(settings.limits.failed_attempts_per_minute, telemetry),
        newcomers=Newcomers(settings.limits.newcomers_per_address),
        settings=settings,
        telemetry=telemetry,
        namespaces=namespaces,
        requests=RequestRate(settings.limits.requests_per_second, "user", "REQUESTS_PER_SECOND", telemetry),
        policy=policy,
        codec=PlainCodec(settings.limits.depth),
        flush_scheduler=flush_scheduler,
        intake=intake(settings.limits),
    )
    origins = OriginPolicy(
        settings.allowed_origins, open_mode=policy.open_mode, open_to_network=settings.auth.open_to_network
    )
    endpoint = WebSocketEndpoint.build(parts, origins)
    by_address = RequestRate(
        settings.limits.requests_per_second_per_address, "address", "REQUESTS_PER_SECOND_PER_ADDRESS", telemetry
    )
    public_endpoint = partial(PublicEndpoint, origins, parts.addresses, by_address, parts.failed_attempts)
    polls = PollEndpoint(parts)
    routes: list[BaseRoute] = [
        WebSocketRoute("/ws", endpoint),
        WebSocketRoute("/ws/users/{user:path}", endpoint),
        *(WebSocketRoute(f"/ws/{kind}/{{{kind}:path}}", endpoint) for kind in CHANNEL_KINDS),
        Route("/api/ticket", public_endpoint(TicketEndpoint(authenticator, parts.requests).serve, "POST")),
        Route("/sse", public_endpoint(SseEndpoint.build(parts).serve)),
        Route("/api/poll", public_endpoint(polls.serve)),
        Route("/api/runs/{run_id:path}", public_endpoint(RunEndpoint(parts).serve)),
    ]
    inside = [*health_routes(node, bus), metrics_route(node, bus, hub, telemetry, memory), openapi_route()]
    has_inside = settings.internal.port is not None
    routes += status_routes(node) if has_inside else inside
    routes += static_routes()
    if settings.console_enabled:
        console = Console(node, directory, clock, authenticator, settings.api.secret())
        routes += [Route("/", console.page), Route("/api/cluster", public_endpoint(console.cluster))]
    routes += http_api_routes(parts, user_commands, directory, channel_counts, clock)

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
            if durable is not None:
                await kept_scripts.release()
                await durable.aclose()

    middleware, on_error = [Middleware(SafeHeaders), Middleware(PlainPaths)], {Exception: internal_error}
    app = Starlette(
        routes=routes,
        middleware=[*middleware, Middleware(Started, node)],
        exception_handlers=on_error,
        lifespan=lifespan,
    )
    internal = Starlette(routes=inside, middleware=middleware, exception_handlers=on_error) if has_inside else None
    return Replica(
        app,
        internal,
        node,
        hub,
        bus,
        directory,
        channels,
        manager,
        reading,
        user_commands,
        telemetry,
        flush_scheduler,
        memory,
    )


def _in_turn(*calls: Callable[[], object]) -> Callable[[], None]:
    """One call that makes several."""

    def call_all() -> None:
        for call in calls:
            call()

    return call_all

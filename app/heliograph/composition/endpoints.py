"""What clients, other programs and load balancers reach of a replica."""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from heliograph.api.backend_calls import BackendCalls
from heliograph.api.channel_reads import ChannelReads
from heliograph.api.delivery_reads import DeliveryReads
from heliograph.api.health import health_routes, status_routes
from heliograph.api.methods import Methods, Publishes
from heliograph.api.metrics import ServerMetrics, metrics_route
from heliograph.api.operator_reads import OperatorReads
from heliograph.api.publishing import Publishing
from heliograph.api.routes import direct_endpoints, http_api_routes, openapi_route
from heliograph.api.user_methods import UserMethods
from heliograph.auth.authenticator import Authenticator
from heliograph.auth.operators import Operators
from heliograph.cluster.status import VERSION
from heliograph.codecs.centrifuge.json_codec import CentrifugeJsonCodec
from heliograph.codecs.centrifuge.protobuf_codec import CentrifugeProtobufCodec
from heliograph.codecs.centrifuge.uni_codec import CentrifugeUniCodec
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.composition.cluster import Cluster
from heliograph.composition.ground import Ground
from heliograph.console.login import Login
from heliograph.console.page import Console, static_routes
from heliograph.hooks.user_backend import UserBackend
from heliograph.hub.frames import Encoding, EventFrame
from heliograph.hub.outbox import Outboxes
from heliograph.ports import Bus
from heliograph.protocol.budget import Intake
from heliograph.protocol.decision import Hook
from heliograph.protocol.session import Session
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.api_callers import ApiCallers, Programs, ProgramsAndOperators
from heliograph.transports.centrifuge import CentrifugeEndpoint, Pings, UnansweredPings
from heliograph.transports.direct import DirectEndpoints, DirectSocket
from heliograph.transports.direct_poll import DirectPoll
from heliograph.transports.driver import Drivers, Routing
from heliograph.transports.emulation import BINARY, PostEndpoint, StreamEndpoint, StreamForm
from heliograph.transports.event_stream import in_block, join_blocks
from heliograph.transports.handshake import PATH_NAMESPACES, HandshakeCheck
from heliograph.transports.headers import SafeHeaders, internal_error
from heliograph.transports.http import PublicEndpoint
from heliograph.transports.origins import OriginPolicy
from heliograph.transports.parked_polls import ParkedPolls
from heliograph.transports.paths import PlainPaths
from heliograph.transports.peers import Peers
from heliograph.transports.poll_connection import PollConnection
from heliograph.transports.polling import PollEndpoint
from heliograph.transports.received import ReceivedEndpoint
from heliograph.transports.registration import Registrar
from heliograph.transports.requests import RequestRate
from heliograph.transports.runs import RunEndpoint
from heliograph.transports.sse import SseEndpoint
from heliograph.transports.started import Started
from heliograph.transports.tickets import TicketEndpoint
from heliograph.transports.websocket import WebSocketEndpoint, WireFormat

logger = logging.getLogger(__name__)


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
    user_backend: UserBackend
    peers: Peers


def build_endpoints(
    ground: Ground, bus: Bus, cluster: Cluster
) -> tuple[Starlette, Starlette | None, DirectEndpoints]:
    """The application that clients reach, one of what is kept from them if that has a port of its own, and what our
    server answers without an application."""
    settings, node, telemetry = ground.settings, cluster.node, ground.telemetry
    clients = _build_clients(ground, cluster)
    public_endpoint = partial(PublicEndpoint, clients.origins, clients.by_address)
    traffic, depth = telemetry.traffic["api"], settings.limits.depth
    publishing = Publishing(cluster.manager, traffic, max_depth=depth, most_commands=settings.api.batch)
    methods = _build_methods(ground, cluster, clients, publishing)
    parked = ParkedPolls(node.name, settings.poll.linger_s)
    polls = _build_polls(ground, cluster, clients, parked)
    servers = [ServerMetrics(shard.name, shard.backends.bus, shard.memory) for shard in cluster.shards]
    metrics = metrics_route(node, servers, ground.hub, telemetry)
    inside = [*health_routes(node, bus), metrics, openapi_route()]
    has_inside = settings.internal.port is not None
    console: list[BaseRoute] = []
    callers: ApiCallers = Programs(settings.api.secret())
    if settings.console_enabled:
        console, callers = _console_routes(ground, cluster, clients, public_endpoint)
    api_routes = http_api_routes(methods, settings.api, callers, clients.by_address.failed_attempts)
    direct_posts = direct_endpoints(publishing, settings.api)
    if ground.spans is not None:
        from heliograph.api.traced import continuing, untraced  # it needs OpenTelemetry

        api_routes, direct_posts = continuing(api_routes), untraced(direct_posts)
    routes = [
        *_client_routes(ground, cluster, clients, public_endpoint, polls),
        *(status_routes(node) if has_inside else inside),
        *static_routes(),
        *console,
        *api_routes,
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
            await clients.user_backend.stop()
            await node.stop()
            if ground.spans is not None:
                await ground.spans.stop()

    middleware, on_error = [Middleware(SafeHeaders), Middleware(PlainPaths)], {Exception: internal_error}
    app = Starlette(
        routes=routes,
        middleware=[*middleware, Middleware(Started, node)],
        exception_handlers=on_error,
        lifespan=lifespan,
    )
    internal = Starlette(routes=inside, middleware=middleware, exception_handlers=on_error) if has_inside else None
    direct_poll = DirectPoll(
        parked, clients.authenticator, clients.requests, node, clients.origins, clients.by_address
    )
    direct = DirectEndpoints(direct_posts, {b"/api/poll": direct_poll}, _direct_sockets(routes))
    return app, internal, direct


def _direct_sockets(routes: Iterable[BaseRoute]) -> dict[bytes, DirectSocket]:
    """The endpoints of sockets by path, where the path has no parameters."""
    return {
        route.path.encode(): route.endpoint
        for route in routes
        if isinstance(route, WebSocketRoute)
        and isinstance(route.endpoint, WebSocketEndpoint)
        and not route.param_convertors
    }


def _build_clients(ground: Ground, cluster: Cluster) -> _Clients:
    settings, telemetry, policy = ground.settings, ground.telemetry, cluster.policy
    limits = settings.limits
    user_backend = UserBackend(settings.hooks, telemetry.hooks, ground.clock, max_depth=limits.depth)
    ask_backend = user_backend.identify if user_backend.has(Hook.CONNECT) else None
    authenticator = Authenticator(settings.auth, cluster.tickets, cluster.blocked, ask_backend)
    open_session = partial(
        Session,
        replica=cluster.node.name,
        policy=policy,
        ping_interval_s=settings.ping.interval_s,
        max_channels=limits.channels_per_connection,
    )
    routing = Routing(cluster.manager, cluster.reading, cluster.emitter, cluster.receipts)
    registrar = Registrar(cluster.node, cluster.manager, authenticator, telemetry)
    return _Clients(
        Drivers(open_session, routing, authenticator, registrar, Intake(limits), telemetry, user_backend),
        Outboxes(ground.flush_scheduler, limits.outbox_bytes, ground.hub.trace),
        PlainCodec(limits.depth),
        authenticator,
        OriginPolicy(
            settings.allowed_origins, open_mode=policy.open_mode, open_to_network=settings.auth.open_to_network
        ),
        AddressLimits.of(limits, telemetry),
        RequestRate(limits.requests_per_second, "user", "REQUESTS_PER_SECOND", telemetry),
        user_backend,
        Peers(settings.hooks.headers if settings.hooks.urls() else ()),
    )


def _build_methods(ground: Ground, cluster: Cluster, clients: _Clients, publishing: Publishing) -> Methods:
    publishes: Publishes = publishing
    if ground.spans is not None:
        from heliograph.api.traced import TracedPublishing  # it needs OpenTelemetry

        publishes = TracedPublishing(ground.spans, publishing)
    return Methods(
        publishes,
        cluster.manager,
        ChannelReads(cluster.reading, cluster.namespaces),
        OperatorReads(cluster.connections, cluster.blocked, cluster.channels, cluster.kept),
        UserMethods(cluster.user_commands, cluster.namespaces),
        BackendCalls(clients.user_backend),
        DeliveryReads(cluster.receipts, cluster.tracer),
        cluster.replicas,
        ground.clock,
    )


def _build_polls(ground: Ground, cluster: Cluster, clients: _Clients, parked: ParkedPolls) -> PollEndpoint:
    settings = ground.settings
    open_connection = partial(
        PollConnection,
        clients.drivers,
        clients.outboxes,
        Encoding(clients.codec, EventFrame, ground.telemetry.traffic["poll"]),
        most_bytes=settings.poll.answer_bytes,
        most_channels=settings.limits.channels_per_connection,
    )
    return PollEndpoint(open_connection, clients.authenticator, clients.requests, cluster.node, clients.peers, parked)


def _client_routes(
    ground: Ground,
    cluster: Cluster,
    clients: _Clients,
    public_endpoint: Callable[..., PublicEndpoint],
    polls: PollEndpoint,
) -> list[BaseRoute]:
    settings, traffic, policy = ground.settings, ground.telemetry.traffic, cluster.policy
    authenticator, requests = clients.authenticator, clients.requests
    handshakes = partial(
        HandshakeCheck,
        cluster.node,
        clients.origins,
        authenticator,
        clients.by_address,
        ground.telemetry,
        clients.peers,
        open_mode=policy.open_mode,
    )
    socket = WebSocketEndpoint(
        handshakes(),
        clients.drivers,
        clients.outboxes,
        clients.by_address,
        settings.limits,
        (WireFormat.of(clients.codec, traffic["websocket"]),),
    )
    stream = SseEndpoint(
        clients.drivers,
        clients.outboxes,
        Encoding(clients.codec, in_block, traffic["sse"], join=join_blocks),
        authenticator,
        requests,
        clients.peers,
        keep_alive_s=settings.ping.interval_s,
    )
    ticket = TicketEndpoint(authenticator, requests, clients.peers)
    received = ReceivedEndpoint(
        cluster.reading,
        cluster.receipts,
        authenticator,
        requests,
        clients.peers,
        most_channels=settings.limits.channels_per_connection,
    )
    run = RunEndpoint(cluster.reading, policy, authenticator, requests, clients.user_backend, clients.peers)
    return [
        WebSocketRoute("/ws", socket),
        WebSocketRoute("/ws/users/{user:path}", socket),
        *(WebSocketRoute(f"/ws/{kind}/{{{kind}:path}}", socket) for kind in PATH_NAMESPACES),
        *_centrifuge_routes(ground, cluster, clients, public_endpoint, handshakes),
        Route("/api/ticket", public_endpoint(ticket.serve, "POST")),
        Route("/api/received", public_endpoint(received.serve, "POST")),
        Route("/sse", public_endpoint(stream.serve)),
        Route("/api/poll", public_endpoint(polls.serve)),
        Route("/api/runs/{run_id:path}", public_endpoint(run.serve)),
    ]


def _centrifuge_routes(
    ground: Ground,
    cluster: Cluster,
    clients: _Clients,
    public_endpoint: Callable[..., PublicEndpoint],
    handshakes: Callable[..., HandshakeCheck],
) -> list[BaseRoute]:
    settings, traffic, limits = ground.settings, ground.telemetry.traffic, ground.settings.limits
    json, uni = CentrifugeJsonCodec(limits.depth, VERSION), CentrifugeUniCodec(limits.depth, VERSION)
    protobuf = CentrifugeProtobufCodec(limits.depth, VERSION)
    socket = CentrifugeEndpoint(
        handshakes(identifies=False),
        clients.drivers,
        clients.outboxes,
        clients.by_address,
        limits,
        (WireFormat.of(json, traffic["websocket"]), WireFormat.of(protobuf, traffic["websocket"])),
        Pings(settings.ping),
    )
    http_stream = StreamEndpoint(
        "http_stream",
        {"": StreamForm.lines(json, traffic["sse"]), BINARY: StreamForm.binary(protobuf, traffic["sse"])},
        clients.drivers,
        clients.outboxes,
        clients.by_address,
        limits,
        socket.pings,
        cluster.node,
        clients.peers,
        cluster.forwarding,
        open_mode=cluster.policy.open_mode,
    )
    sse = replace(http_stream, transport="sse", forms={"": StreamForm.events(json, traffic["sse"])})
    only_listening = replace(http_stream, pings=UnansweredPings(settings.ping), forwarding=None)
    uni_stream = replace(
        only_listening, transport="uni_http_stream", forms={"": StreamForm.lines(uni, traffic["sse"])}
    )
    uni_sse = replace(only_listening, transport="uni_sse", forms={"": StreamForm.events(uni, traffic["sse"])})
    uni_socket = replace(socket, formats=(WireFormat.of(uni, traffic["websocket"]),), pings=only_listening.pings)
    return [
        WebSocketRoute("/connection/websocket", socket),
        WebSocketRoute("/connection/uni_websocket", uni_socket),
        Route("/connection/http_stream", public_endpoint(http_stream.serve, "POST")),
        Route("/connection/sse", public_endpoint(sse.serve)),
        Route("/connection/uni_http_stream", public_endpoint(uni_stream.serve, "POST")),
        Route("/connection/uni_sse", public_endpoint(uni_sse.serve)),
        Route("/emulation", public_endpoint(PostEndpoint(cluster.forwarding, limits).serve, "POST")),
    ]


def _console_routes(
    ground: Ground, cluster: Cluster, clients: _Clients, public_endpoint: Callable[..., PublicEndpoint]
) -> tuple[list[BaseRoute], ApiCallers]:
    """Return the routes of the console, and who may call the server API because of it."""
    settings = ground.settings
    key, auth = settings.api.secret(), settings.auth
    operators = Operators(
        clients.authenticator,
        cluster.tickets,
        settings.api,
        session_s=settings.console.session_s,
        is_open=auth.mode == "open" and not auth.open_to_network and not key,
        monotonic=ground.clock.monotonic,
    )
    callers = ProgramsAndOperators(key, operators)
    console = Console(cluster.node, cluster.replicas, ground.clock, clients.authenticator, callers)
    login = Login(operators)
    return [
        Route("/", console.page),
        Route("/api/cluster", public_endpoint(console.cluster)),
        Route("/api/session", public_endpoint(login.session)),
        Route("/api/login", public_endpoint(login.log_in, "POST")),
        Route("/api/logout", public_endpoint(login.log_out, "POST")),
    ], callers

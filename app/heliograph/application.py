"""One replica, built from its settings."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.applications import Starlette

from heliograph.clock import SystemClock
from heliograph.cluster.channels import Channels
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.connections import Connections
from heliograph.cluster.directory import Directory
from heliograph.cluster.forwarding import Forwarding
from heliograph.cluster.memory_watch import MemoryWatch
from heliograph.cluster.node import Node
from heliograph.cluster.reading import Reading
from heliograph.cluster.user_commands import UserCommands
from heliograph.composition.backends import MakeBus, build_backends
from heliograph.composition.cluster import build_cluster
from heliograph.composition.endpoints import build_endpoints
from heliograph.composition.ground import Ground
from heliograph.composition.otel import build_spans
from heliograph.composition.shard import Shard
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler
from heliograph.hub.span_trace import SpanTrace
from heliograph.hub.trace import NO_TRACE, Trace, TraceRing
from heliograph.hub.written import WrittenWatch
from heliograph.ports import Backends, Bus
from heliograph.protocol.lifecycle import Kind
from heliograph.protocol.policy import Policy
from heliograph.settings import Settings
from heliograph.telemetry import Telemetry
from heliograph.transports.direct import DirectEndpoints


@dataclass(frozen=True)
class Replica:
    """One replica, with the parts that a server or a test needs."""

    app: Starlette
    internal: Starlette | None  # endpoints that clients cannot reach, if they have a port of their own
    direct: DirectEndpoints  # what our server answers without an application
    node: Node
    hub: Hub
    bus: Bus  # over all shards
    shards: Sequence[Shard]  # its parts for each shard; there is one, unless the settings name several
    manager: ConnectionManager
    reading: Reading
    user_commands: UserCommands
    forwarding: Forwarding
    connections: Connections
    policy: Policy
    telemetry: Telemetry
    flush_scheduler: FlushScheduler

    # Those of the first shard, for whom there is no other.

    @property
    def backends(self) -> Backends:
        return self.shards[0].backends

    @property
    def directory(self) -> Directory:
        return self.shards[0].directory

    @property
    def channels(self) -> Channels:
        return self.shards[0].channels

    @property
    def memory(self) -> MemoryWatch | None:
        """None without Redis."""
        return self.shards[0].memory


def build_replica(settings: Settings, name: str = "replica-1", make_bus: MakeBus | None = None) -> Replica:
    """Build a replica; nothing is opened before its application starts.

    `make_bus`: makes its bus from the Redis servers of its shards, or without any. A process that is one replica
    passes `get_pubsub_manager`; by default the replica has a bus of its own.
    """
    clock, telemetry = SystemClock(), Telemetry()
    flush_scheduler = FlushScheduler(lambda callback: asyncio.get_running_loop().call_soon(callback))
    trace = TraceRing(settings.trace.notes) if settings.trace.notes else None
    notes: Trace = trace or NO_TRACE
    written = WrittenWatch(notes) if Kind.MESSAGE_UNDELIVERED in settings.events.kinds else None
    noted = written or notes
    spans = build_spans(settings, name, lambda publication: hub.reach_of(publication))
    hub = Hub(telemetry, flush_scheduler, noted if spans is None else SpanTrace(noted, spans))
    ground = Ground(settings, name, clock, telemetry, flush_scheduler, hub, trace, written, spans)
    bus, backends = build_backends(ground, make_bus)
    cluster = build_cluster(ground, bus, backends)
    app, internal, direct = build_endpoints(ground, bus, cluster)
    return Replica(
        app,
        internal,
        direct,
        cluster.node,
        hub,
        bus,
        cluster.shards,
        cluster.manager,
        cluster.reading,
        cluster.user_commands,
        cluster.forwarding,
        cluster.connections,
        cluster.policy,
        telemetry,
        flush_scheduler,
    )

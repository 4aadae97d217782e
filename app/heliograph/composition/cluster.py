"""What makes a hub and its backends one of many replicas."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from heliograph.clock import Timestamps
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.cluster.channel_counts import ChannelList
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.connections import CONNECTIONS, Connections, LocalConnections
from heliograph.cluster.drain import Drain
from heliograph.cluster.emitter import Emitter, ShardEmissions
from heliograph.cluster.forwarding import Forwarding
from heliograph.cluster.health import Breakdown, Health
from heliograph.cluster.hub_part import parts_of
from heliograph.cluster.kept import Kept
from heliograph.cluster.node import Node, Service
from heliograph.cluster.per_shard import PerShard
from heliograph.cluster.pulse import Pulse
from heliograph.cluster.questions import Questions
from heliograph.cluster.reading import Reading
from heliograph.cluster.receipts import ReceiptWriter
from heliograph.cluster.replicas import Replicas
from heliograph.cluster.sharded_manager import ShardedManager
from heliograph.cluster.sharded_receipts import ShardedReceipts
from heliograph.cluster.sharded_tickets import ShardedTickets
from heliograph.cluster.stamp import Stamp
from heliograph.cluster.status import Status
from heliograph.cluster.tracer import LocalTrace, Tracer
from heliograph.cluster.user_commands import ShardCommands, UserCommands
from heliograph.cluster.written_reports import WrittenReports
from heliograph.composition.ground import Ground
from heliograph.composition.shard import Common, Shard, build_manager, build_shard, membership
from heliograph.composition.webhooks import build_pushers
from heliograph.ports import Backends, Bus, Tickets
from heliograph.protocol.budget import Budget, Spending
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.policy import Policy
from heliograph.protocol.shard_map import ShardMap


@dataclass(frozen=True)
class Cluster:
    """The parts that make a hub and its backends one of many replicas. `shards`: those of each shard, in order."""

    node: Node
    shards: Sequence[Shard]
    manager: ConnectionManager
    reading: Reading
    user_commands: UserCommands
    emitter: Emitter
    receipts: ReceiptWriter
    questions: Questions
    tracer: Tracer
    forwarding: Forwarding
    channels: ChannelList
    connections: Connections
    kept: Kept
    replicas: Replicas
    tickets: Tickets
    blocked: BlockedUsers
    namespaces: Namespaces
    policy: Policy


def build_cluster(ground: Ground, bus: Bus, backends: Sequence[Backends]) -> Cluster:
    """`bus`: over all shards; `backends`: of each."""
    settings, clock = ground.settings, ground.clock
    shard_map = ShardMap(len(backends))
    stamp = Stamp(ground.name, bus.node_id, Timestamps(clock))
    forwarding = Forwarding(bus.post, stamp)
    replicas = Replicas([each.directory for each in backends])
    answerers = LocalTrace(ground.trace, ground.hub, bus.node_id).answerers()
    local_connections = LocalConnections(ground.hub, clock, name=ground.name, node_id=bus.node_id)
    questions = Questions(
        bus.post, stamp, replicas.all, answerers, slow_answerers={CONNECTIONS: local_connections.answer}
    )
    common = Common(
        ground,
        Namespaces(settings.namespaces, is_strict=settings.strict_namespaces),
        stamp,
        _each_of(forwarding.receive, questions.receive),
        BlockedUsers(clock),
        Spending(Budget.of(settings.limits)),
        Breakdown(),
    )
    names = [str(number) for number in range(1, len(backends) + 1)] if len(backends) > 1 else [""]
    hub_parts = parts_of(ground.hub, shard_map.of, len(backends))
    shards = [
        build_shard(common, name, each, hub_part)
        for name, each, hub_part in zip(names, backends, hub_parts, strict=True)
    ]
    reading = Reading(PerShard([shard.reading for shard in shards], shard_map.of))
    managers = [build_manager(common, shard, reading) for shard in shards]
    kept_receipts = [each.receipts for each in backends]
    receipts = ReceiptWriter(
        kept_receipts[0] if len(backends) == 1 else ShardedReceipts(PerShard(kept_receipts, shard_map.of)), clock
    )
    return Cluster(
        _build_node(common, shards, managers, reading, receipts, questions),
        shards,
        managers[0] if len(managers) == 1 else ShardedManager(managers, shard_map),
        reading,
        UserCommands(
            PerShard([ShardCommands(shard.commands, shard.backends.commands) for shard in shards], shard_map.of),
            stamp,
        ),
        Emitter(
            PerShard([ShardEmissions(shard.backends.emissions, shard.writes) for shard in shards], shard_map.of),
            stamp,
        ),
        receipts,
        questions,
        Tracer(questions, reading, receipts),
        forwarding,
        ChannelList([each.channel_counts for each in backends]),
        Connections(questions, local_connections),
        Kept([(each.kept_channels, each.log) for each in backends]),
        replicas,
        backends[0].tickets if len(backends) == 1 else ShardedTickets([each.tickets for each in backends]),
        common.blocked,
        common.namespaces,
        Policy(
            common.namespaces,
            open_mode=settings.auth.mode == "open",
            events=settings.emit.events,
            hooks=settings.hooks.urls(),
        ),
    )


def _build_node(
    common: Common,
    shards: Sequence[Shard],
    managers: Sequence[ConnectionManager],
    reading: Reading,
    receipts: ReceiptWriter,
    questions: Questions,
) -> Node:
    """The replica as a member of the cluster; what watches over it starts before all else."""
    ground = common.ground
    pulse = Pulse(ground.telemetry, ground.clock)
    health = Health([shard.health for shard in shards], common.breakdown)
    buses = [shard.backends.bus for shard in shards]
    watches = [watch for shard in shards for watch in shard.watches()]
    services = [service for shard in shards for service in shard.services()]
    services += build_pushers(ground, [feed for shard in shards for feed in shard.backends.feeds])
    return Node(
        [membership(shard, manager) for shard, manager in zip(shards, managers, strict=True)],
        Status(ground.name, ground.hub, buses, health, pulse, ground.clock),
        health,
        Drain(ground.hub, reading.positions_of, ground.settings.drain),
        [*watches, pulse, *services, receipts, *_written_reports(common.ground, shards), questions],
    )


def _written_reports(ground: Ground, shards: Sequence[Shard]) -> list[Service]:
    """What says which messages were written, if the undelivered ones are told."""
    backends = [shard.backends.undelivered for shard in shards if shard.backends.undelivered is not None]
    if ground.written is None or not backends:
        return []
    owner = ShardMap(len(backends)).of
    return [WrittenReports(ground.written, ground.hub.connections_of, PerShard(backends, owner))]


def _each_of(*receivers: Callable[[Envelope], object]) -> Callable[[Envelope], None]:
    """Return a receiver that gives an envelope to each: one of them is meant."""

    def receive(envelope: Envelope) -> None:
        for receiver in receivers:
            receiver(envelope)

    return receive

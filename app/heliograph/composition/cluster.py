"""What makes a hub and its backends one of many replicas."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from heliograph.clock import Timestamps
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
from heliograph.cluster.forwarding import Forwarding
from heliograph.cluster.health import Breakdown, Health
from heliograph.cluster.memory_watch import MemoryWatch
from heliograph.cluster.node import Node, Service
from heliograph.cluster.periodic import Periodic
from heliograph.cluster.presence import Presence
from heliograph.cluster.pulse import Pulse
from heliograph.cluster.questions import Questions
from heliograph.cluster.reading import Reading
from heliograph.cluster.receipts import ReceiptWriter
from heliograph.cluster.remote_delivery import RemoteDelivery
from heliograph.cluster.stamp import Stamp
from heliograph.cluster.status import Status
from heliograph.cluster.tracer import LocalTrace, Tracer
from heliograph.cluster.user_commands import UserCommands
from heliograph.cluster.write_probe import WriteProbe
from heliograph.composition.ground import Ground
from heliograph.composition.webhooks import build_pushers
from heliograph.hub.connection import Connection
from heliograph.ports import Backends, Handler
from heliograph.protocol.budget import Budget
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.policy import Policy
from heliograph.protocol.position import Position

REAP_EVERY_S = 2.0  # how often to look for runs that lost their worker
TELL_EVERY_S = 0.5  # how often to tell who is absent for the grace of lifecycle events
SWEEP_EVERY_S = 60.0  # how often to drop emissions whose time to live is over


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
    receipts: ReceiptWriter
    questions: Questions
    tracer: Tracer
    forwarding: Forwarding
    channel_counts: ChannelCounts
    blocked: BlockedUsers
    memory: MemoryWatch | None
    namespaces: Namespaces
    policy: Policy


def build_cluster(ground: Ground, backends: Backends) -> Cluster:
    settings, hub, clock, telemetry = ground.settings, ground.hub, ground.clock, ground.telemetry
    bus, node_id = backends.bus, backends.bus.node_id
    namespaces = Namespaces(settings.namespaces, is_strict=settings.strict_namespaces)
    directory = Directory(backends.directory, hub, node_id=node_id, settings=settings.directory, clock=clock)
    channels = Channels(hub, backends.log, bus, namespaces, settings.channels, telemetry)
    presence = Presence(backends.presence, directory, namespaces, grace_s=settings.presence.grace_s)
    channel_counts = ChannelCounts(backends.channel_counts, directory, hub)
    timestamp = Timestamps(clock)
    stamp = Stamp(ground.name, node_id, timestamp)
    forwarding = Forwarding(bus.post, stamp)
    blocked = BlockedUsers(clock)
    local_trace = LocalTrace(ground.trace, hub, node_id)
    questions = Questions(bus.post, stamp, backends.directory.replicas, local_trace.answerers())
    commands = Commands(
        hub,
        backends.commands,
        blocked,
        node_id=node_id,
        clock=clock,
        between_replicas=_each_of(forwarding.receive, questions.receive),
    )
    memory = None
    if backends.memory is not None:
        memory = MemoryWatch(backends.memory.share, settings.limits.client_memory_percent / 100)
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
    receipts = ReceiptWriter(backends.receipts, clock)
    services: list[Service] = [channels, presence, channel_counts, commands, receipts, *_chores(backends)]
    services += build_pushers(ground, backends.feeds)
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
        receipts,
        questions,
        Tracer(questions, backends.log, receipts),
        forwarding,
        channel_counts,
        blocked,
        memory,
        namespaces,
        Policy(
            namespaces,
            open_mode=settings.auth.mode == "open",
            events=settings.emit.events,
            hooks=settings.hooks.urls(),
        ),
    )


def _build_node(
    ground: Ground,
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
    if backends.tell_absences is not None:
        work = backends.tell_absences
        chores.append(Periodic("lifecycle-sweep", "telling lifecycle events", work, TELL_EVERY_S))
    return chores


def _each_of(*receivers: Callable[[Envelope], object]) -> Callable[[Envelope], None]:
    """Return a receiver that gives an envelope to each: one of them is meant."""

    def receive(envelope: Envelope) -> None:
        for receiver in receivers:
            receiver(envelope)

    return receive


def _in_turn(*calls: Callable[[], object]) -> Callable[[], None]:
    """Return one call that makes several."""

    def call_all() -> None:
        for call in calls:
            call()

    return call_all

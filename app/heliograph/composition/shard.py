"""What a replica has for each shard: a shard is a whole little cluster, which owns all of its users and channels."""

from collections.abc import Callable
from dataclasses import dataclass

from heliograph.cluster.admission import Admission
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.cluster.channel_counts import ChannelCounts
from heliograph.cluster.channels import Channels
from heliograph.cluster.client_writes import ClientWrites
from heliograph.cluster.commands import Commands
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.directory import Directory
from heliograph.cluster.health import Breakdown, ShardHealth
from heliograph.cluster.hub_part import HubPart
from heliograph.cluster.memory_watch import MemoryWatch
from heliograph.cluster.node import Membership, Service
from heliograph.cluster.periodic import Periodic
from heliograph.cluster.presence import Presence
from heliograph.cluster.reading import Reading, ShardReading
from heliograph.cluster.remote_delivery import RemoteDelivery
from heliograph.cluster.stamp import Stamp
from heliograph.cluster.write_probe import WriteProbe
from heliograph.composition.ground import Ground
from heliograph.hub.hub import Hub
from heliograph.ports import Backends
from heliograph.protocol.budget import Spending
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.namespace import Namespaces

REAP_EVERY_S = 2.0  # how often to look for runs that lost their worker
TELL_EVERY_S = 0.5  # how often to tell who is absent for the grace of lifecycle events
UNDELIVERED_EVERY_S = 1.0  # how often to tell the messages that nobody has taken in time
SWEEP_EVERY_S = 60.0  # how often to drop emissions whose time to live is over


@dataclass(frozen=True)
class Common:
    """What the shards of a replica share."""

    ground: Ground
    namespaces: Namespaces
    stamp: Stamp
    between_replicas: Callable[[Envelope], object]
    blocked: BlockedUsers
    spending: Spending
    breakdown: Breakdown


@dataclass(frozen=True)
class Shard:
    """The parts of a replica for one shard. `name`: its number from 1 on; empty where it is the only one."""

    name: str
    backends: Backends
    directory: Directory
    channels: Channels
    presence: Presence
    channel_counts: ChannelCounts
    commands: Commands
    memory: MemoryWatch | None
    writes: ClientWrites
    probes: list[WriteProbe]
    health: ShardHealth

    @property
    def reading(self) -> ShardReading:
        return ShardReading(self.channels.joining, self.presence, self.backends.log)

    def watches(self) -> list[Service]:
        """What watches over its Redis."""
        return [*self.probes, *filter(None, [self.memory])]

    def services(self) -> list[Service]:
        """What works while the replica is a member."""
        return [self.channels, self.presence, self.channel_counts, self.commands, *_chores(self.backends)]


def build_shard(common: Common, name: str, backends: Backends, hub_part: Hub | HubPart) -> Shard:
    ground, namespaces = common.ground, common.namespaces
    settings, hub, clock, telemetry = ground.settings, ground.hub, ground.clock, ground.telemetry
    node_id = backends.bus.node_id
    directory = Directory(backends.directory, hub_part, node_id=node_id, settings=settings.directory, clock=clock)
    memory = None
    if backends.memory is not None:
        memory = MemoryWatch(backends.memory.share, settings.limits.client_memory_percent / 100)
    probes = [
        WriteProbe(
            probe,
            is_vital=number == 0,  # without the others, ephemeral messages still work
            interval_s=settings.bus.canary_interval_s,
            timeout_s=settings.bus.canary_timeout_s,
            clock=clock,
            name=f"Redis of shard {name}" if name else "Redis",
            without="unready" if number == 0 and not name else "degraded",
            give_up=common.breakdown.give_up,
        )
        for number, probe in enumerate(backends.probes)
    ]
    return Shard(
        name,
        backends,
        directory,
        Channels(hub, backends.log, backends.bus, namespaces, settings.channels, telemetry),
        Presence(backends.presence, directory, namespaces, grace_s=settings.presence.grace_s),
        ChannelCounts(backends.channel_counts, directory, hub_part),
        Commands(
            hub,
            backends.commands,
            common.blocked,
            node_id=node_id,
            clock=clock,
            between_replicas=common.between_replicas,
        ),
        memory,
        ClientWrites(common.spending, memory, telemetry, clock.monotonic),
        probes,
        ShardHealth(backends.bus, probes, memory, deaf_after_s=settings.bus.canary_timeout_s),
    )


def build_manager(common: Common, shard: Shard, reading: Reading) -> ConnectionManager:
    """Build the router of one shard. `reading`: of all shards, as a connection reads channels of any."""
    ground, following = common.ground, shard.channels.following
    hub, stamp = ground.hub, common.stamp
    return ConnectionManager(
        hub,
        shard.backends.bus,
        shard.directory,
        shard.backends.log,
        following,
        RemoteDelivery(hub, following, shard.commands, stamp.node_id, stamp.now),
        Admission(hub, shard.directory, reading, ground.settings.limits),
        shard.writes,
        common.namespaces,
        stamp,
    )


def membership(shard: Shard, manager: ConnectionManager) -> Membership:
    return Membership(
        shard.backends,
        shard.directory,
        manager.handle_pubsub_message,
        _in_turn(shard.channels.following.lost_track, shard.commands.lost_track),
    )


def _chores(backends: Backends) -> list[Service]:
    """What any number of replicas do now and then for all of them."""
    chores: list[Service] = []
    if backends.sweep_emissions is not None:
        chores.append(Periodic("sweeper", "sweeping old entries", backends.sweep_emissions, SWEEP_EVERY_S))
    if backends.reap_lost_runs is not None:
        chores.append(Periodic("run-reaper", "search for lost runs", backends.reap_lost_runs, REAP_EVERY_S))
    if backends.undelivered is not None:
        tell = backends.undelivered.tell
        chores.append(Periodic("undelivered-sweep", "telling undelivered messages", tell, UNDELIVERED_EVERY_S))
    if backends.tell_absences is not None:
        work = backends.tell_absences
        chores.append(Periodic("lifecycle-sweep", "telling lifecycle events", work, TELL_EVERY_S))
    return chores


def _in_turn(*calls: Callable[[], object]) -> Callable[[], None]:
    """Return one call that makes several."""

    def call_all() -> None:
        for call in calls:
            call()

    return call_all

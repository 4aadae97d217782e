"""What a replica needs from outside: in Redis, or in memory."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from heliograph.backends.memory.channel_counts import MemoryChannelCounts
from heliograph.backends.memory.commands import NoCommands
from heliograph.backends.memory.directory import MemoryDirectory
from heliograph.backends.memory.emissions import NoEmissions
from heliograph.backends.memory.kept_channels import MemoryKeptChannels
from heliograph.backends.memory.log import MemoryLog
from heliograph.backends.memory.presence import MemoryPresence
from heliograph.backends.memory.receipts import MemoryReceipts
from heliograph.backends.memory.tickets import MemoryTickets
from heliograph.backends.redis.acknowledgement import Acknowledgement
from heliograph.backends.redis.channel_counts import RedisChannelCounts
from heliograph.backends.redis.commands import RedisCommands
from heliograph.backends.redis.directory import RedisDirectory
from heliograph.backends.redis.event_feed import RedisLifecycleFeed
from heliograph.backends.redis.kept_channels import RedisKeptChannels
from heliograph.backends.redis.lifecycle import (
    LifecycleChannelCounts,
    LifecycleDirectory,
    LifecycleEvents,
    LifecyclePresence,
    Told,
)
from heliograph.backends.redis.log import ConfirmedLog, RedisLog, TwoServerLog
from heliograph.backends.redis.memory import RedisMemory
from heliograph.backends.redis.opening import open_server
from heliograph.backends.redis.presence import RedisPresence
from heliograph.backends.redis.probe import ConfirmationProbe, DiskProbe, RedisProbe
from heliograph.backends.redis.receipts import RedisReceipts
from heliograph.backends.redis.run_leases import reap_lost_runs
from heliograph.backends.redis.server import RedisServer
from heliograph.backends.redis.streams import RedisEmissions
from heliograph.backends.redis.tickets import RedisTickets
from heliograph.backends.redis.undelivered import RedisUndelivered
from heliograph.cluster.pubsub_manager import PubSubManager, make_bus, redis_servers
from heliograph.cluster.sharded_bus import ShardedBus
from heliograph.composition.ground import Ground
from heliograph.errors import BadSetting
from heliograph.hub.announcements import Announcements
from heliograph.ports import Backends, Bus, LifecycleFeed, Log, Probe
from heliograph.protocol.budget import Budget
from heliograph.protocol.lifecycle import Kind
from heliograph.protocol.namespace import Namespaces
from heliograph.settings import Settings
from heliograph.shared_settings import PREFIX

MakeBus = Callable[[Settings, Sequence[RedisServer]], Bus]


class _Membership(NamedTuple):
    """Who is where; see `Backends`."""

    directory: RedisDirectory
    presence: RedisPresence
    channel_counts: RedisChannelCounts
    tell_absences: Callable[[], Awaitable[int]] | None = None
    undelivered: RedisUndelivered | None = None
    feeds: Sequence[LifecycleFeed] = ()


def build_backends(ground: Ground, own_bus: MakeBus | None) -> tuple[Bus, list[Backends]]:
    """Build what a replica needs from outside: in Redis, if the settings name one, otherwise in memory.

    Return the bus, and the backends of each shard: one, unless the settings name several.

    Raises:
        BadSetting: the settings want what memory does not keep.
    """
    settings = ground.settings
    redis = settings.redis
    bus = (own_bus or make_bus)(settings, redis_servers(redis, settings.bus, ground.name))
    if isinstance(bus, ShardedBus):
        return bus, [_shard_backends(ground, shard) for shard in bus.shards]
    return bus, [_shard_backends(ground, bus)]


def _shard_backends(ground: Ground, bus: Bus) -> Backends:
    if not isinstance(bus, PubSubManager):
        if ground.settings.events.kinds:
            raise BadSetting(f"{PREFIX}EVENTS__KINDS needs {PREFIX}REDIS__URL: events are kept in Redis")
        return _memory_backends(ground, bus)
    redis = ground.settings.redis
    live = kept = bus.server  # one that was made before, if the process had its manager before it had a replica
    if redis.durable_url is not None:
        kept = open_server(
            redis.durable_url,
            live.keys,
            max_connections=redis.max_connections,
            node_id=live.node_id,
            replica=ground.name,
            publish_time=live.publish_time,
            ack=Acknowledgement(redis.ack, redis.ack_replicas),
        )
    return _redis_backends(ground, bus, live, kept)


def _memory_backends(ground: Ground, bus: Bus) -> Backends:
    log = MemoryLog(ground.clock, page_bytes=ground.settings.channels.page_bytes)
    return Backends(
        bus=bus,
        directory=MemoryDirectory(ground.clock),
        presence=MemoryPresence(Announcements(ground.hub)),
        channel_counts=MemoryChannelCounts(),
        log=log,
        kept_channels=MemoryKeptChannels(log),
        emissions=NoEmissions(),
        commands=NoCommands(),
        tickets=MemoryTickets(ground.clock),
        receipts=MemoryReceipts(ground.clock, ttl_s=ground.settings.receipts.ttl_s),
    )


def _redis_backends(ground: Ground, bus: Bus, live: RedisServer, kept: RedisServer) -> Backends:
    """`live`: the server with the bus and the directory; `kept`: the one that keeps messages, or the same."""
    settings = ground.settings
    budget, page_bytes = Budget.of(settings.limits), settings.channels.page_bytes
    log: Log
    if kept is not live:
        log = TwoServerLog(kept, live, budget=budget, page_bytes=page_bytes)
    elif kept.ack.confirms:
        log = ConfirmedLog(kept, budget=budget, page_bytes=page_bytes)
    else:
        log = RedisLog(kept, budget=budget, page_bytes=page_bytes)
    emissions = RedisEmissions(
        kept,
        shards=settings.redis.emit_shards,
        max_entries=settings.redis.emit_maxlen,
        max_bytes=settings.emit.shard_bytes,
        ttl_s=settings.emit.ttl_s,
        budget=budget,
    )
    namespaces = Namespaces(settings.namespaces)
    membership = _membership(ground, live, namespaces)
    return Backends(
        bus=bus,
        directory=membership.directory,
        presence=membership.presence,
        channel_counts=membership.channel_counts,
        tell_absences=membership.tell_absences,
        undelivered=membership.undelivered,
        feeds=membership.feeds,
        log=log,
        kept_channels=RedisKeptChannels(kept),
        emissions=emissions,
        commands=RedisCommands(live),
        tickets=RedisTickets(live),
        receipts=RedisReceipts(kept, ttl_s=settings.receipts.ttl_s),
        probes=_probes(live, kept, ground.name),
        memory=RedisMemory(kept),
        sweep_emissions=emissions.sweep,
        reap_lost_runs=partial(reap_lost_runs, kept, namespaces),
        servers=list(dict.fromkeys((live, kept))),
    )


def _membership(ground: Ground, live: RedisServer, namespaces: Namespaces) -> _Membership:
    """What says who is where: it tells lifecycle events if the settings ask for any."""
    settings = ground.settings.events
    if not settings.kinds:
        return _Membership(RedisDirectory(live), RedisPresence(live), RedisChannelCounts(live))
    told = Told(frozenset(settings.kinds), settings.grace_s, settings.maxlen)
    events = LifecycleEvents(live, told, ground.name)
    undelivered = None
    if Kind.MESSAGE_UNDELIVERED in settings.kinds:
        undelivered = RedisUndelivered(live, events, after_s=namespaces.personal.undelivered_after_s)
    return _Membership(
        LifecycleDirectory(live, events),
        LifecyclePresence(live, events, lambda channel: namespaces.of(channel).subscription_events),
        LifecycleChannelCounts(live, events),
        events.tell_absences,
        undelivered,
        [RedisLifecycleFeed(live, ground.clock)],
    )


def _probes(live: RedisServer, kept: RedisServer, name: str) -> list[Probe]:
    """Return the probes: first that of the server with the bus."""
    probes: list[Probe] = [
        DiskProbe(server, name) if server.ack.mode == "disk" else RedisProbe(server, name)
        for server in dict.fromkeys((live, kept))
    ]
    if kept.ack.confirms:
        probes.append(ConfirmationProbe(kept))
    return probes

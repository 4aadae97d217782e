"""Lifecycle events as they stand in Redis, and the backends that tell them."""

from collections.abc import Iterable
from typing import Self

from heliograph.backends.redis import server
from heliograph.backends.redis.client import Client
from heliograph.backends.redis.keys import LIFECYCLE_STREAM, Keys
from heliograph.backends.redis.lifecycle import (
    LifecycleChannelCounts,
    LifecycleDirectory,
    LifecycleEvents,
    LifecyclePresence,
    Told,
)
from heliograph.backends.redis.streams import ShardedStream
from heliograph.protocol.lifecycle import SELECTABLE, Kind, LifecycleEvent

# Those that need no option of the namespace `#`.
USUAL = tuple(kind for kind in SELECTABLE if kind is not Kind.MESSAGE_UNDELIVERED)
EVERYTHING = Told(frozenset(SELECTABLE), grace_s=0.0, maxlen=100_000)


class Teller:
    """One replica's backends that tell events."""

    def __init__(self, redis: server.RedisServer, name: str = "replica-1", told: Told = EVERYTHING) -> None:
        self.redis = redis
        self.events = LifecycleEvents(self.redis, told, name)
        self.directory = LifecycleDirectory(self.redis, self.events)
        self.presence = LifecyclePresence(self.redis, self.events, lambda channel: channel.startswith("chat:"))
        self.counts = LifecycleChannelCounts(self.redis, self.events)

    @classmethod
    def at(cls, client: Client, keys: Keys, name: str = "replica-1", told: Told = EVERYTHING) -> Self:
        """One that reaches Redis with this client."""
        return cls(server.RedisServer(client, keys, node_id=name), name, told)

    async def reap(self, lease: str) -> None:
        """As `cluster/directory.py` reaps a lease."""
        await self.directory.doom(lease)
        await self.presence.reap(lease, lambda _: False)
        await self.counts.forget(lease)
        await self.directory.reap(lease)


async def told(client: Client, keys: Keys) -> list[LifecycleEvent]:
    """Every event so far."""
    stream = ShardedStream(client, keys, LIFECYCLE_STREAM, shards=1)
    entries, _ = await stream.scan(0, "0-0", count=100_000)
    return [LifecycleEvent.read(entry) for entry in entries]


def short(events: Iterable[LifecycleEvent]) -> list[str]:
    """Each event as `kind` or `kind of whom`."""
    return [" ".join(filter(None, (event.event, event.user, event.channel))) for event in events]

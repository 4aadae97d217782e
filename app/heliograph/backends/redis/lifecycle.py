"""Lifecycle events in Redis: the backends that tell what they change, in the script that changes it.

Without events the plain backends are used, and neither their scripts nor their keys know of events. How they are told
exactly once, and in order, stands in `lua/_lifecycle.lua`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import msgspec

from heliograph.backends.redis.channel_counts import RedisChannelCounts
from heliograph.backends.redis.client import Client, as_bus_unavailable
from heliograph.backends.redis.directory import BATCH, RedisDirectory, read_users
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.presence import RedisPresence
from heliograph.backends.redis.server import RedisServer
from heliograph.ports import PresenceEntry, ReplicaInfo
from heliograph.protocol.lifecycle import Kind

if TYPE_CHECKING:
    from heliograph.backends.redis.call_batch import Call
    from heliograph.backends.redis.scripts import Argument

USER: Final = "u"  # the prefixes of subjects, see `lua/_lifecycle.lua`
CHANNEL: Final = "c"

_UNKNOWN: Final = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What is told: these kinds. `grace_s`: who is back within it never left; `maxlen`: kept events, roughly."""

    kinds: frozenset[str]
    grace_s: float
    maxlen: int


@dataclass(frozen=True, slots=True)
class Death:
    """A lease that is being reaped: since when its connections are gone (ms; "": unknown), and its replica's name."""

    gone_at_ms: int | str = _UNKNOWN
    replica: str = _UNKNOWN


class LifecycleEvents:
    """The events of one server: what scripts need to tell them, and those that become due.

    `replica`: the name of this one.
    """

    def __init__(self, server: RedisServer, told: Told, replica: str) -> None:
        self.keys = server.keys.lifecycle
        self.deaths: dict[str, Death] = {}  # by lease: of those that this replica reaps
        self._server = server
        self._told = told
        self._replica = replica
        self._seen_at = 0  # ms, as the server has acknowledged it last

    def arguments(self, comes: Kind, goes: Kind, replica: str | None = None) -> "list[Argument]":
        """Return the last arguments of a script. `replica`: of the connections, if it is not this one."""
        kinds = (self.told(comes), self.told(goes))
        return [self._told.maxlen, *kinds, self._replica if replica is None else replica]

    def told(self, kind: Kind) -> str:
        """Return the kind as scripts take it."""
        return kind if kind in self._told.kinds else ""

    def death_of(self, lease: str) -> Death:
        return self.deaths.get(lease, Death())

    async def tell_absences(self) -> int:
        """Tell who has been absent for the grace. Return how many.

        Any number of replicas may do so, each about twice a second: every absence is told once.

        Raises:
            BusUnavailable: not now. The next call does it.
        """
        goes = [self.told(kind) for kind in (Kind.USER_OFFLINE, Kind.CHANNEL_VACATED, Kind.UNSUBSCRIBED)]
        last = self.arguments(Kind.USER_ONLINE, Kind.USER_OFFLINE)
        total, count = 0, BATCH
        while count == BATCH:
            arguments = [round(self._told.grace_s * 1000), self._seen_at, BATCH, *goes, *last]
            with as_bus_unavailable():
                answer = await self._server.scripts.run("lifecycle_sweep", self.keys, arguments)
            count, self._seen_at = cast("list[int]", answer)
            total += count
        return total


class LifecycleDirectory(RedisDirectory):
    """A directory that tells which users are online, and which are not any more."""

    def __init__(self, server: RedisServer, events: LifecycleEvents) -> None:
        super().__init__(server)
        self._events = events

    async def _run_hold(self, keys: list[str], arguments: "list[Argument]") -> list[int]:
        last = self._events.arguments(Kind.USER_ONLINE, Kind.USER_OFFLINE)
        answer = await self._scripts.run("lifecycle_hold", [*keys, *self._events.keys], [*arguments, *last])
        return cast("list[int]", answer)

    async def users(self) -> set[str]:
        return await read_online_users(self._redis, self._keys)

    async def doom(self, lease: str) -> None:
        """Note when the lease has expired, which cannot be seen any more afterwards."""
        with as_bus_unavailable():
            expiry = await self._redis.zscore(self._keys.leases, lease)
            report = await self._redis.hget(self._keys.replicas, lease)
        if expiry:
            name = msgspec.json.decode(report, type=ReplicaInfo).name if report else _UNKNOWN
            self._events.deaths[lease] = Death(int(expiry), name)
        await super().doom(lease)

    async def reap(self, lease: str) -> int:
        reaped = await super().reap(lease)
        self._events.deaths.pop(lease, None)
        return reaped

    async def _forget(self, lease: str, users: list[bytes]) -> None:
        held_by = self._keys.held_by(lease)
        await _reap(self._server, self._events, lease, USER, held_by, users, self._keys.holders)


class LifecyclePresence(RedisPresence):
    """Presence that tells who subscribes and unsubscribes, on the channels for which `is_told` is true."""

    def __init__(self, server: RedisServer, events: LifecycleEvents, is_told: Callable[[str], bool]) -> None:
        super().__init__(server)
        self._events = events
        self._is_told = is_told

    async def _set(self, lease: str, entries: Sequence[PresenceEntry], *, reaping: bool = False) -> bool:
        told = [entry for entry in entries if self._is_told(entry.channel)]
        others = [entry for entry in entries if not self._is_told(entry.channel)]
        death = self._events.death_of(lease)
        last = self._events.arguments(Kind.SUBSCRIBED, Kind.UNSUBSCRIBED, death.replica if reaping else None)
        calls: list[Call] = []
        for entry in told:
            keys, arguments, common = self._call(lease, entry, reaping=reaping)
            calls.append(([*keys, *self._events.keys], [*arguments, death.gone_at_ms, *last], common))
        held = all(await self._scripts.run_many("lifecycle_presence", calls))
        return await super()._set(lease, others, reaping=reaping) and held


class LifecycleChannelCounts(RedisChannelCounts):
    """Channel counts that tell which channels are occupied, and which not any more. Personal channels are not."""

    def __init__(self, server: RedisServer, events: LifecycleEvents) -> None:
        super().__init__(server)
        self._server = server
        self._events = events

    async def _set(self, lease: str, counts: Mapping[str, int]) -> bool:
        told = {channel: count for channel, count in counts.items() if not channel.startswith("#")}
        others = {channel: count for channel, count in counts.items() if channel.startswith("#")}
        held = not others or await super()._set(lease, others)
        if not told:
            return held
        keys = [self._keys.leases, self._keys.channel_counts(lease), *map(self._keys.occupants, told)]
        arguments = [lease, *(part for entry in told.items() for part in entry)]
        last = self._events.arguments(Kind.CHANNEL_OCCUPIED, Kind.CHANNEL_VACATED)
        answer = await self._scripts.run("lifecycle_counts", [*keys, *self._events.keys], [*arguments, *last])
        return bool(answer) and held

    async def forget(self, lease: str) -> None:
        counts = self._keys.channel_counts(lease)
        with as_bus_unavailable():
            while channels := cast("list[bytes] | None", await self._redis.hrandfield(counts, BATCH)):
                await _reap(self._server, self._events, lease, CHANNEL, counts, channels, self._keys.occupants)


async def _reap(
    server: RedisServer,
    events: LifecycleEvents,
    lease: str,
    prefix: str,
    list_key: str,
    names: Sequence[bytes],
    holders_of: Callable[[str], str],
) -> None:
    """Forget some of what a lease has; see `lua/lifecycle_reap.lua`."""
    death = events.death_of(lease)
    last = events.arguments(Kind.USER_ONLINE, Kind.USER_OFFLINE, death.replica)
    keys = [list_key, *(holders_of(name.decode()) for name in names), *events.keys]
    await server.scripts.run("lifecycle_reap", keys, [lease, death.gone_at_ms, prefix, *names, *last])


async def read_online_users(client: Client, keys: Keys) -> set[str]:
    """Return the users who are online as far as events tell. Raises BusUnavailable."""
    # Read twice, because who moves from one replica to another meanwhile may be on neither as it is read.
    online: set[str] = set()
    _, _, absent, _ = keys.lifecycle
    for _ in range(2):
        with as_bus_unavailable():
            async for subject, _ in client.zscan_iter(absent, f"{USER}*", count=BATCH):
                online.add(subject.decode().removeprefix(USER))
        online |= await read_users(client, keys)
    return online

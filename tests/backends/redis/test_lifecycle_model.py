"""Lifecycle events against a model: whatever happens to replicas, each change is told once, and in order."""

from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.keys import Keys
from heliograph.ports import PresenceEntry
from tests.support.lifecycle import Teller, short, told
from tests.support.redis_server import RedisServer
from tests.support.replica_info import replica_info

NAMES = "ab"
USERS = ["bob", "김철수"]
CHANNELS = ["chat:1", "chat:{🐈}"]
LONG_S = 600.0


@dataclass(frozen=True)
class Hold:
    """A user has so many connections on a replica now. `again`: the answer was lost, so that it is written twice."""

    replica: str
    user: str
    count: int
    again: bool


@dataclass(frozen=True)
class Enter:
    """A user has so many connections on a channel now."""

    replica: str
    channel: str
    user: str
    count: int
    again: bool


@dataclass(frozen=True)
class Count:
    """A channel has so many subscribers on a replica now."""

    replica: str
    channel: str
    count: int
    again: bool


@dataclass(frozen=True)
class Die:
    """A replica dies and is reaped by the other, after one that broke off; it begins again under a new lease."""

    replica: str
    breaks_off: bool


@dataclass(frozen=True)
class Sweep:
    """The grace is over for all who are gone."""


Step = Hold | Enter | Count | Die | Sweep

_replicas, _users, _channels = st.sampled_from(NAMES), st.sampled_from(USERS), st.sampled_from(CHANNELS)
_steps = st.one_of(
    st.builds(Hold, _replicas, _users, st.integers(0, 2), st.booleans()),
    st.builds(Enter, _replicas, _channels, _users, st.integers(0, 2), st.booleans()),
    st.builds(Count, _replicas, _channels, st.integers(0, 2), st.booleans()),
    st.builds(Die, _replicas, st.booleans()),
    st.just(Sweep()),
)


@dataclass
class Subject:
    """A user, a channel or a subscription in the model: where it is, and what has been told."""

    on: set[str] = field(default_factory=set)
    is_told: bool = False
    events: list[str] = field(default_factory=list)

    def set(self, replica: str, count: int) -> None:
        (self.on.add if count else self.on.discard)(replica)
        if self.on and not self.is_told:
            self.is_told = True
            self.events.append("came")

    def sweep(self) -> None:
        if self.is_told and not self.on:
            self.is_told = False
            self.events.append("went")


class Cluster:
    """Two replicas, and what should have been told of them."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self.tellers = {name: Teller.at(client, keys, name) for name in NAMES}
        self.leases = dict.fromkeys(NAMES, "")
        self.model: dict[str, Subject] = defaultdict(Subject)
        self.boots = 0

    async def boot(self, name: str) -> None:
        self.boots += 1
        self.leases[name] = f"{name}{self.boots}.0"
        await self.tellers[name].directory.take(self.leases[name], replica_info(name), LONG_S)

    async def carry_out(self, step: Step) -> None:
        match step:
            case Hold(name, user, count, again):
                for _ in range(2 if again else 1):
                    await self.tellers[name].directory.hold(self.leases[name], {user: count})
                self.model[f"user {user}"].set(name, count)
            case Enter(name, channel, user, count, again):
                for _ in range(2 if again else 1):
                    entry = PresenceEntry(channel, user, count, announced=False)
                    assert await self.tellers[name].presence.enter(self.leases[name], [entry])
                subject = self.model[f"sub {user} {channel}"]
                was_on = bool(subject.on)
                subject.set(name, count)
                if was_on and not subject.on:
                    subject.sweep()  # presence has waited already
            case Count(name, channel, count, again):
                for _ in range(2 if again else 1):
                    await self.tellers[name].counts.enter(self.leases[name], {channel: count, "#bob": count})
                self.model[f"channel {channel}"].set(name, count)
            case Die(name, breaks_off):
                lease, [other] = self.leases[name], [each for each in NAMES if each != name]
                if breaks_off:
                    await self.tellers[name].directory.doom(lease)
                    await self.tellers[name].presence.reap(lease, lambda _: False)
                await self.tellers[other].reap(lease)
                for subject in self.model.values():
                    subject.set(name, 0)
                await self.boot(name)
            case Sweep():
                await self.tellers["a"].events.tell_absences()
                for subject in self.model.values():
                    subject.sweep()


WORDS = {
    "user_online": ("user", "came"),
    "user_offline": ("user", "went"),
    "channel_occupied": ("channel", "came"),
    "channel_vacated": ("channel", "went"),
    "subscribed": ("sub", "came"),
    "unsubscribed": ("sub", "went"),
}


# Who is reaped and back in time; a channel that one of two replicas leaves.
@example([Enter("a", CHANNELS[0], "bob", 1, False), Die("a", False), Enter("b", CHANNELS[0], "bob", 1, False)])
@example([Count("a", CHANNELS[0], 1, False), Count("b", CHANNELS[0], 1, False), Count("a", CHANNELS[0], 0, False)])
@given(st.lists(_steps, max_size=40))
@settings(
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_each_change_is_told_once_and_in_order(own_redis: RedisServer, steps: list[Step]) -> None:
    """Fails if any order of changes, repetitions, deaths and reaps tells of one twice, never, or in another order."""
    client = connect(own_redis.url)
    keys = Keys("model:", "model:events")
    try:
        await client.flushdb()
        cluster = Cluster(client, keys)
        for name in NAMES:
            await cluster.boot(name)
        for step in steps:
            await cluster.carry_out(step)
        await cluster.carry_out(Sweep())
        events = await told(client, keys)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert short(events[:1]) == ["gap"], "events begin"
        found = defaultdict(list)
        for event in events[1:]:
            what, word = WORDS[event.event]
            found[" ".join(filter(None, (what, event.user, event.channel)))].append(word)
        assert found == {name: subject.events for name, subject in cluster.model.items() if subject.events}
        online = {
            name.removeprefix("user ") for name, each in cluster.model.items() if name[:4] == "user" and each.on
        }
        assert await cluster.tellers["b"].directory.users() == online
        for name in NAMES:
            await cluster.tellers[name].reap(cluster.leases[name])
        await cluster.carry_out(Sweep())
        left = {key.decode() async for key in client.scan_iter("*")}
        stream, about, _, _ = keys.lifecycle
        assert left - {keys.settled_at, keys.server} == {stream, about}
    finally:
        await client.aclose()

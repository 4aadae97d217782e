"""The directory against a model: whatever happens to replicas and to Redis, in the end the entries are true."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliograph.backends.memory.directory import MemoryDirectory
from tests.support.holder import BY_HAND, Holder
from tests.support.manual_clock import ManualClock
from tests.support.wiretap import Wiretap

NAMES = "abc"
USERS = ["bob", "김철수", "{🐈}"]

Broken = Literal["before", "after"]


@dataclass(frozen=True)
class Connect:
    replica: str
    user: str


@dataclass(frozen=True)
class Disconnect:
    replica: str
    user: str


@dataclass(frozen=True)
class Crash:
    """The process is killed; a new one with the same name takes its place."""

    replica: str


@dataclass(frozen=True)
class Stop:
    """As a deploy does; a new process takes its place."""

    replica: str


@dataclass(frozen=True)
class Outage:
    """A replica's calls to Redis fail, carried out or not (None: they work again)."""

    replica: str
    broken: Broken | None


@dataclass(frozen=True)
class Forget:
    """Redis loses everything."""


@dataclass(frozen=True)
class Wait:
    """Time passes, and every replica renews."""

    seconds: float


Step = Connect | Disconnect | Crash | Stop | Outage | Forget | Wait

_replicas = st.sampled_from(NAMES)
_users = st.sampled_from(USERS)
_steps = st.one_of(
    st.builds(Connect, _replicas, _users),
    st.builds(Connect, _replicas, _users),
    st.builds(Disconnect, _replicas, _users),
    st.builds(Crash, _replicas),
    st.builds(Stop, _replicas),
    st.builds(Outage, _replicas, st.sampled_from(["before", "after", None])),
    st.just(Forget()),
    st.builds(Wait, st.sampled_from([0.5, 1.1, 2.1, 4.0])),
)


class Cluster:
    """Three replicas on one backend, and what should be known of them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.backend = MemoryDirectory(self.clock)
        self.wiretaps = {name: Wiretap(self.backend) for name in NAMES}
        self.boots = 0
        self.holders: dict[str, Holder] = {}
        self.model = {name: Counter[str]() for name in NAMES}
        self.disturbed = False  # something has gone wrong: entries may be so too, until it is found out

    async def boot(self, name: str) -> None:
        self.boots += 1
        holder = Holder(self.wiretaps[name], f"{name}{self.boots}", BY_HAND, self.clock)
        await holder.start()
        self.holders[name] = holder
        self.model[name].clear()

    async def carry_out(self, step: Step) -> None:
        match step:
            case Connect(name, user):
                self.model[name][user] += 1
                total = await self.holders[name].connect(user)
                if total is not None and not self.disturbed:
                    assert total == self.connections(user)
            case Disconnect(name, user):
                if self.model[name][user]:
                    self.model[name][user] -= 1
                    self.holders[name].disconnect(user)
            case Crash(name):
                self.disturbed = True
                await self.holders[name].crash()
                await self.boot(name)
            case Stop(name):
                self.disturbed |= self.wiretaps[name].broken is not None
                await self.holders[name].directory.stop()
                await self.boot(name)
            case Outage(name, broken):
                self.disturbed |= broken is not None
                self.wiretaps[name].broken = broken
            case Forget():
                self.disturbed = True
                self.backend._leases.clear()
                self.backend._holders.clear()
            case Wait(seconds):
                self.disturbed |= seconds >= BY_HAND.lease_ttl_s  # all replicas stood still
                self.clock.advance(seconds)
                await self.renew()
        await settle()

    def connections(self, user: str) -> int:
        return sum(self.model[name][user] for name in NAMES)

    async def renew(self) -> None:
        for holder in self.holders.values():
            await holder.directory.renew_now()
        await settle()

    async def entries(self, user: str) -> dict[str, int]:
        """The user's connections by replica."""
        by_lease = await self.backend.holders(user)
        return {lease.split(".")[0]: count for lease, count in by_lease.items()}


async def settle() -> None:
    """Let the tasks do what they can do without time passing."""
    for _ in range(12):
        await asyncio.sleep(0)


@given(st.lists(_steps, max_size=40))
@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_in_the_end_the_entries_are_true(steps: list[Step]) -> None:
    """Fails if any order of connects, crashes, deploys, outages and losses leaves a ghost or misses a user.

    While nothing has gone wrong, every single answer must be true at once.
    """
    cluster = Cluster()
    for name in NAMES:
        await cluster.boot(name)
    for step in steps:
        await cluster.carry_out(step)
        if not cluster.disturbed:
            for user in USERS:
                assert sum((await cluster.entries(user)).values()) == cluster.connections(user)
    for wiretap in cluster.wiretaps.values():
        wiretap.broken = None
    for _ in range(5):  # notice, suspect, reap; whoever was reaped by mistake takes a new lease
        cluster.clock.advance(BY_HAND.reap_grace_s)
        await cluster.renew()
        await cluster.renew()
    for user in USERS:
        expected = {cluster.holders[name].name: count for name in NAMES if (count := cluster.model[name][user])}
        assert await cluster.entries(user) == expected
    names = sorted(holder.name for holder in cluster.holders.values())
    assert [info.name for info in await cluster.backend.replicas()] == names
    for holder in cluster.holders.values():
        await holder.directory.stop()
    assert [await cluster.backend.holders(user) for user in USERS] == [{}, {}, {}]
    assert cluster.backend._leases == {}

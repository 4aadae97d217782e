"""Which replicas hold which user: entries that stay true through outages, pauses, crashes and lost leases."""

import asyncio
import itertools
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from heliograph.application import build_replica
from heliograph.backends.memory.directory import MemoryDirectory
from heliograph.backends.redis import server
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.directory import RedisDirectory
from heliograph.backends.redis.keys import Keys
from heliograph.clock import Clock, SystemClock
from heliograph.errors import BusUnavailable
from heliograph.ports import DirectoryBackend
from heliograph.settings import DirectorySettings
from tests.support.cancelling import Watch, end
from tests.support.client import Client
from tests.support.holder import BY_HAND, QUICK, Holder
from tests.support.manual_clock import ManualClock
from tests.support.ports import free_port
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.replica_info import replica_info
from tests.support.replicas import settings_for
from tests.support.waiting import eventually
from tests.support.wiretap import Wiretap

StartHolder = Callable[..., Any]


@pytest.fixture
async def redis_backend(redis_server: RedisServer, namespace: str) -> AsyncIterator[RedisDirectory]:
    """A directory in the shared Redis."""
    client = connect(redis_server.url)
    yield RedisDirectory(server.RedisServer(client, Keys(f"{namespace}:", f"{namespace}:events")))
    await client.aclose()


@pytest.fixture
async def own_backend(own_redis: RedisServer, namespace: str) -> AsyncIterator[RedisDirectory]:
    """A directory in the test's own Redis."""
    client = connect(own_redis.url)
    yield RedisDirectory(server.RedisServer(client, Keys(f"{namespace}:", f"{namespace}:events")))
    await client.aclose()


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> DirectoryBackend:
    """Each in turn: what the directory does must not depend on where it writes."""
    if request.param == "memory":
        return MemoryDirectory(SystemClock())
    backend: DirectoryBackend = request.getfixturevalue("redis_backend")
    return backend


@pytest.fixture
async def holder(redis_backend: RedisDirectory) -> AsyncIterator[StartHolder]:
    """`await holder("a", backend)` starts a replica; all of them are stopped in the end."""
    started: list[Holder] = []

    async def start(
        name: str,
        backend: DirectoryBackend = redis_backend,
        settings: DirectorySettings = QUICK,
        clock: Clock | None = None,
    ) -> Holder:
        holder = Holder(backend, name, settings, clock)
        started.append(holder)
        await holder.start()
        return holder

    yield start
    async with asyncio.timeout(10):
        await asyncio.gather(*(holder.directory.stop() for holder in started))


def directory_tasks() -> list[str]:
    names = (task.get_name() for task in asyncio.all_tasks())
    return sorted(name for name in names if name.startswith("directory-"))


async def holds(backend: DirectoryBackend, user: str, *counts: int) -> bool:
    """True if the user's connections are spread like this over the leases, whichever they are."""
    return sorted((await backend.holders(user)).values()) == sorted(counts)


async def on_name(backend: DirectoryBackend, user: str) -> dict[str, int]:
    """The user's connections by replica."""
    return {lease.split(".")[0]: count for lease, count in (await backend.holders(user)).items()}


class TestEntries:
    async def test_a_hold_tells_how_many_connections_the_user_has_everywhere(
        self, holder: StartHolder, backend: DirectoryBackend
    ) -> None:
        """Fails if a user's other devices, here or on other replicas, are not counted."""
        a, b, c = [await holder(name, backend) for name in "abc"]
        assert [await one.connect("김철수") for one in (a, b, b, c)] == [1, 2, 3, 4]
        assert await a.connect("bob") == 1
        assert await on_name(backend, "김철수") == {"a": 1, "b": 2, "c": 1}

    async def test_a_release_is_entered_without_anybody_waiting(
        self, holder: StartHolder, backend: DirectoryBackend
    ) -> None:
        """Fails if a user who has left stays in the directory, or if one who has another device here goes."""
        a, b = [await holder(name, backend) for name in "ab"]
        for one in (a, a, b):
            await one.connect("bob")
        a.disconnect("bob")
        await eventually(lambda: holds(backend, "bob", 1, 1))
        a.disconnect("bob")
        await eventually(lambda: holds(backend, "bob", 1))
        assert await on_name(backend, "bob") == {"b": 1}
        b.disconnect("bob")
        await eventually(lambda: holds(backend, "bob"))

    async def test_leaving_and_coming_back_in_one_turn_ends_well(
        self, holder: StartHolder, backend: DirectoryBackend
    ) -> None:
        """Fails if a release that is written late wipes out the connection that came after it."""
        a = await holder("a", backend)
        await a.connect("bob")
        for _ in range(50):
            a.disconnect("bob")
            assert await a.connect("bob") == 1
        a.disconnect("bob")
        coming = asyncio.create_task(a.connect("bob"))
        await asyncio.sleep(0)
        a.disconnect("bob")
        await coming
        await eventually(lambda: holds(backend, "bob"))

    async def test_many_at_a_time_are_entered_in_a_few_calls(
        self, holder: StartHolder, redis_backend: RedisDirectory
    ) -> None:
        """Fails if each of a thousand clients that come back after a deploy costs a round trip."""
        wiretap = Wiretap(redis_backend)
        a = await holder("a", wiretap)
        totals = await asyncio.gather(*(a.connect(f"user-{number}") for number in range(1_000)))
        assert totals == [1] * 1_000
        assert wiretap.count("hold") <= 3
        before = wiretap.count("hold")
        for number in range(1_000):
            a.disconnect(f"user-{number}")
        await eventually(lambda: holds(redis_backend, "user-999"))
        assert wiretap.count("hold") - before <= 2

    async def test_what_comes_while_a_call_is_under_way_goes_out_together_after_it(
        self, holder: StartHolder, redis_backend: RedisDirectory
    ) -> None:
        """Fails if calls overtake each other, or if each waiting client makes one of its own."""
        wiretap = Wiretap(redis_backend)
        a = await holder("a", wiretap)
        wiretap.freeze()
        first = asyncio.create_task(a.connect("first"))
        await eventually(lambda: wiretap.count("hold") == 1)
        others = [asyncio.create_task(a.connect(f"user-{number}")) for number in range(100)]
        await asyncio.sleep(0.01)
        wiretap.thaw()
        assert await asyncio.gather(first, *others) == [1] * 101
        assert wiretap.count("hold") == 2

    async def test_all_devices_of_a_user_that_come_together_are_told_the_same(
        self, holder: StartHolder, backend: DirectoryBackend
    ) -> None:
        """Fails if one of several waiting for the same entry is forgotten."""
        a = await holder("a", backend)
        assert await asyncio.gather(*(a.connect("bob") for _ in range(5))) == [5] * 5

    async def test_who_stops_waiting_leaves_nothing_behind(
        self, holder: StartHolder, redis_backend: RedisDirectory
    ) -> None:
        """Fails if a client that goes away while it connects stays entered, or takes others with it."""
        wiretap = Wiretap(redis_backend)
        a = await holder("a", wiretap)
        wiretap.freeze()
        leaving = asyncio.create_task(a.connect("bob"))
        staying = asyncio.create_task(a.connect("bob"))
        await eventually(lambda: wiretap.count("hold") == 1)
        late = asyncio.create_task(a.connect("bob"))
        await asyncio.sleep(0)
        leaving.cancel()
        late.cancel()
        await asyncio.gather(leaving, late, return_exceptions=True)
        a.disconnect("bob")
        a.disconnect("bob")
        wiretap.thaw()
        assert await staying == 2  # as it was when the entry was made
        await eventually(lambda: holds(redis_backend, "bob", 1))
        assert a.directory._due == {}


class TestOutage:
    async def test_with_redis_gone_a_hold_fails_at_once_and_is_made_up_for(
        self, holder: StartHolder, own_redis: RedisServer, own_backend: RedisDirectory
    ) -> None:
        """Fails if clients cannot connect while Redis is away, or are not entered when it is back."""
        a = await holder("a", own_backend)
        await a.connect("before")
        own_redis.stop()
        began = time.monotonic()
        assert await a.connect("during") is None
        assert await a.connect("during") is None
        a.disconnect("before")
        assert time.monotonic() - began < 0.5
        own_redis.start()
        await eventually(lambda: _works(holds, own_backend, "during", 2))
        assert await own_backend.holders("before") == {}
        assert await a.connect("after") == 1

    async def test_without_redis_at_the_start_it_joins_later(
        self, holder: StartHolder, own_redis: RedisServer, own_backend: RedisDirectory
    ) -> None:
        """Fails if a replica waits for Redis before it serves anybody, or does not join when Redis comes."""
        own_redis.stop()
        began = time.monotonic()
        a = await holder("a", own_backend)
        assert await a.connect("bob") is None
        assert time.monotonic() - began < 0.5
        own_redis.start()
        await eventually(lambda: _works(holds, own_backend, "bob", 1))
        assert [info.name for info in await a.directory.replicas()] == ["a"]

    @pytest.mark.usefixtures("short_timeout")
    async def test_with_redis_frozen_a_hold_waits_for_a_command_or_two_and_no_longer(
        self, holder: StartHolder, own_redis: RedisServer, own_backend: RedisDirectory
    ) -> None:
        """Fails if a client hangs in its handshake because Redis does."""
        a = await holder("a", own_backend)
        own_redis.freeze()
        began = time.monotonic()
        assert await a.connect("bob") is None
        assert time.monotonic() - began < 1.5
        own_redis.thaw()
        await eventually(lambda: _works(holds, own_backend, "bob", 1))

    @pytest.mark.parametrize("broken", ["before", "after"])
    async def test_a_write_that_failed_stays_due(
        self, holder: StartHolder, redis_backend: RedisDirectory, broken: str
    ) -> None:
        """Fails if an entry or its removal is lost because one call failed, whether it was carried out or not."""
        wiretap = Wiretap(redis_backend)
        a = await holder("a", wiretap)
        await a.connect("leaving")
        wiretap.broken = broken  # type: ignore[assignment]
        assert await a.connect("coming") is None
        assert await a.connect("coming and going") is None
        a.disconnect("leaving")
        a.disconnect("coming and going")
        await eventually(lambda: wiretap.count("renew") > 5)
        wiretap.broken = None
        await eventually(lambda: holds(redis_backend, "coming", 1))
        await eventually(lambda: holds(redis_backend, "leaving"))
        await eventually(lambda: holds(redis_backend, "coming and going"))

    async def test_an_error_that_nobody_expected_is_said_and_holds_up_nobody(
        self,
        holder: StartHolder,
        redis_backend: RedisDirectory,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Fails if a task of the directory dies in silence, and every client that comes later waits for ever."""
        a = await holder("a")

        async def broken(*_: object) -> None:
            raise ZeroDivisionError("a bug in here")

        with monkeypatch.context() as patch:
            patch.setattr(redis_backend, "hold", broken)
            async with asyncio.timeout(2):
                assert await a.connect("bob") is None
        async with asyncio.timeout(2):
            await a.connect("carol")
        assert [record for record in caplog.records if record.levelno >= logging.ERROR and record.exc_info]


class TestLease:
    async def test_renewal_keeps_it(self, holder: StartHolder, backend: DirectoryBackend) -> None:
        """Fails if a replica that lives loses its lease, or appears to be gone in between."""
        settings = DirectorySettings(lease_ttl_s=0.15, renew_interval_s=0.03, reap_grace_s=0.1)
        a, b = await holder("a", backend, settings), await holder("b", backend, settings)
        await a.connect("bob")
        lease, until = a.directory.lease, time.monotonic() + 3 * settings.lease_ttl_s
        while time.monotonic() < until:
            assert [info.name for info in await b.directory.replicas()] == ["a", "b"]
            await asyncio.sleep(0.02)
        assert a.directory.lease == lease
        assert await backend.holders("bob") == {lease: 1}

    async def test_what_has_changed_can_be_said_at_once(self, holder: StartHolder, backend: DirectoryBackend) -> None:
        """Fails if a replica that drains is shown as it was until its next renewal."""
        a = await holder("a", backend, BY_HAND)
        assert (await a.directory.replicas())[0].users == 0
        await a.connect("bob")
        await a.directory.renew_now()
        assert (await a.directory.replicas())[0].users == 1

    async def test_one_that_others_reaped_is_replaced_with_everything_under_it(
        self, holder: StartHolder, backend: DirectoryBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a replica that was written off by mistake goes on with users whom nobody can reach."""
        a = await holder("a", backend)
        users = [f"user-{number}" for number in range(20)]
        for user in [*users, "김철수", "김철수"]:
            await a.connect(user)
        old = a.directory.lease
        await backend.reap(old)
        await eventually(lambda: holds(backend, "김철수", 2))
        await eventually(lambda: holds(backend, "user-19", 1))
        assert a.directory.lease != old
        assert {await _only_lease(backend, user) for user in users} == {a.directory.lease}
        assert old in caplog.text

    async def test_after_redis_lost_everything_it_is_all_entered_again(
        self, holder: StartHolder, own_redis: RedisServer, own_backend: RedisDirectory
    ) -> None:
        """Fails if a Redis that was flushed, or came back empty, stays without the users who are connected."""
        a, b = await holder("a", own_backend), await holder("b", own_backend)
        for one in (a, b, b):
            await one.connect("bob")
        for wipe in (lambda: own_redis.command("FLUSHALL"), own_redis.restart):
            wipe()
            await eventually(lambda: _works(on_name_is, own_backend, "bob", {"a": 1, "b": 2}))
            assert [info.name for info in await a.directory.replicas()] == ["a", "b"]

    async def test_a_hold_that_finds_the_lease_lost_is_made_up_for(
        self, holder: StartHolder, backend: DirectoryBackend
    ) -> None:
        """Fails if the entry is made under a lease that is not held any more, or not at all."""
        a = await holder("a", backend)
        await backend.reap(a.directory.lease)
        assert await a.connect("bob") in (None, 1)
        await eventually(lambda: holds(backend, "bob", 1))
        assert list(await backend.holders("bob")) == [a.directory.lease]


class TestStartAndStop:
    async def test_stop_takes_everything_back_at_once(self, holder: StartHolder, backend: DirectoryBackend) -> None:
        """Fails if the users of a replica that was stopped in good order are held until its lease has run out."""
        a, b = await holder("a", backend), await holder("b", backend)
        for one in (a, a, b):
            await one.connect("bob")
        await a.connect("carol")
        await a.directory.stop()
        assert await on_name(backend, "bob") == {"b": 1}
        assert await backend.holders("carol") == {}
        assert [info.name for info in await b.directory.replicas()] == ["b"]

    async def test_stop_without_a_start_and_twice(self, backend: DirectoryBackend) -> None:
        """Fails if stopping what does not run raises, or reaps a lease that is none."""
        a = Holder(backend)
        await a.directory.stop()
        await a.start()
        await asyncio.gather(a.directory.stop(), a.directory.stop())
        await a.directory.stop()
        assert directory_tasks() == []

    async def test_started_twice_it_runs_once(self, holder: StartHolder) -> None:
        """Fails if a second start makes a second set of tasks, of which one would never be stopped."""
        a = await holder("a")
        await a.start()
        assert directory_tasks() == ["directory-reap", "directory-renew", "directory-write"]
        await a.directory.stop()
        assert directory_tasks() == []

    async def test_started_again_it_enters_whoever_is_still_here(
        self, holder: StartHolder, backend: DirectoryBackend
    ) -> None:
        """Fails if connections that outlive a stop are missing from the directory after the next start."""
        a = await holder("a", backend)
        await a.connect("bob")
        await a.directory.stop()
        await a.start()
        assert await a.connect("carol") == 1
        await eventually(lambda: holds(backend, "bob", 1))

    @pytest.mark.usefixtures("short_timeout")
    @pytest.mark.parametrize("frozen", [False, True], ids=["dead", "frozen"])
    async def test_without_redis_stop_is_quick(
        self, holder: StartHolder, own_redis: RedisServer, own_backend: RedisDirectory, frozen: bool
    ) -> None:
        """Fails if a shut-down waits for Redis longer than one command may take."""
        a = await holder("a", own_backend)
        if frozen:
            own_redis.freeze()
        else:
            own_redis.stop()
        began = time.monotonic()
        await a.directory.stop()
        assert time.monotonic() - began < (1.5 if frozen else 0.5)

    async def test_who_waits_when_it_is_stopped_is_told(
        self, holder: StartHolder, redis_backend: RedisDirectory
    ) -> None:
        """Fails if a client that connects during a shut-down waits for ever."""
        wiretap = Wiretap(redis_backend)
        a = await holder("a", wiretap)
        wiretap.freeze()
        under_way = asyncio.create_task(a.connect("bob"))
        await eventually(lambda: wiretap.count("hold") == 1)
        due = asyncio.create_task(a.connect("carol"))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(a.directory.stop())
        async with asyncio.timeout(2):
            assert [await under_way, await due] == [None, None]
            wiretap.thaw()
            await stopping
            assert await a.connect("dave") is None

    @pytest.mark.slow
    @pytest.mark.parametrize("turns", range(2))
    @pytest.mark.parametrize("loop", ["_renew_loop", "_write_loop", "_reap_loop"])
    async def test_wherever_its_tasks_wait_a_stop_ends_them(
        self, redis_backend: RedisDirectory, loop: str, turns: int
    ) -> None:
        """Fails if there is an await, in here or in redis-py, at which `stop` waits for ever."""
        stubborn = []
        for at in itertools.count(1):
            settings = DirectorySettings(lease_ttl_s=5, renew_interval_s=0.005, reap_grace_s=0)
            a = Holder(redis_backend, f"a-{at}", settings)
            watch = Watch(at)
            setattr(a.directory, loop, watch.around(getattr(a.directory, loop)))
            await redis_backend.take(f"dead-{at}", replica_info(), 0.001)
            await redis_backend.hold(f"dead-{at}", {"bob": 1})
            await a.start()
            life = asyncio.create_task(_a_life(a, redis_backend, watch))
            reached = await watch.place()
            for _ in range(turns):
                await asyncio.sleep(0)
            try:
                async with asyncio.timeout(0.5):
                    await a.directory.stop()
            except TimeoutError:
                stubborn.append(f"{at}: {watch.where}")
                await a.crash()
                await redis_backend.reap(a.directory.lease)
            if not reached:
                await life
                break
            await end(life)
            await redis_backend.reap(f"dead-{at}")
            assert directory_tasks() == []
            assert await redis_backend.replicas() == []
            assert await redis_backend.holders("bob") == {}
        assert at > 3
        assert stubborn == []

    async def test_a_replica_that_starts_again_leaves_no_connection(
        self, own_redis: RedisServer, namespace: str
    ) -> None:
        """Fails if the directory goes on with a client of Redis that the bus has closed and forgotten."""
        replica = build_replica(settings_for(redis_url=own_redis.url, namespace=namespace))
        async with RedisAdmin(own_redis.url) as admin:
            for _ in range(2):
                await replica.node.start()
                await eventually(lambda: replica.node.ready)
                await replica.directory.hold("bob")
                await replica.node.stop()
                await eventually(lambda: _no_connections(admin))


class TestReaping:
    async def test_a_replica_that_died_is_forgotten_in_time(
        self, holder: StartHolder, backend: DirectoryBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if ghosts stay longer than the lease and the grace time, or if anybody else is forgotten."""
        a, b = await holder("a", backend), await holder("b", backend)
        for one in (a, a, b):
            await one.connect("bob")
        await a.connect("carol")
        await a.crash()
        died = time.monotonic()
        await eventually(lambda: on_name_is(backend, "bob", {"b": 1}))
        took = time.monotonic() - died
        assert took >= QUICK.lease_ttl_s - QUICK.renew_interval_s - 0.05
        assert took < QUICK.lease_ttl_s + QUICK.reap_grace_s + 0.5
        await eventually(lambda: holds(backend, "carol"))
        assert [info.name for info in await b.directory.replicas()] == ["b"]
        await eventually(lambda: "removed the 2 users" in caplog.text)

    async def test_a_large_replica_is_forgotten_whole(
        self, holder: StartHolder, redis_backend: RedisDirectory, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if some of 2,000 users stay entered under a replica that is dead."""
        a, b = await holder("a"), await holder("b")
        users = [f"user-{number}" for number in range(2_000)]
        await asyncio.gather(*(a.connect(user) for user in users))
        await b.connect("user-1000")
        await a.crash()
        await eventually(lambda: "removed the 2000 users" in caplog.text)
        assert await on_name(redis_backend, "user-1000") == {"b": 1}
        assert await _replicas_are(b, "b")
        left = [user for user in users if await redis_backend.holders(user)]
        assert left == ["user-1000"]

    async def test_one_that_was_frozen_and_thaws_enters_its_users_again(
        self, holder: StartHolder, redis_backend: RedisDirectory
    ) -> None:
        """Fails if a replica that was reaped while it stood still does not notice, or keeps its old lease."""
        wiretap = Wiretap(redis_backend)
        a, b = await holder("a", wiretap), await holder("b")
        await a.connect("bob")
        await b.connect("bob")
        old = a.directory.lease
        wiretap.freeze()
        await eventually(lambda: on_name_is(redis_backend, "bob", {"b": 1}))
        wiretap.thaw()
        await eventually(lambda: on_name_is(redis_backend, "bob", {"a": 1, "b": 1}))
        assert a.directory.lease != old
        assert b.directory.lease == "b.0"

    async def test_a_short_pause_is_forgiven(self, holder: StartHolder) -> None:
        """Fails if a lease is reaped as soon as it has run out, without the grace time."""
        clock = ManualClock()
        backend = MemoryDirectory(clock)
        a, b = [await holder(name, backend, BY_HAND, clock) for name in "ab"]
        await a.connect("bob")
        clock.advance(BY_HAND.lease_ttl_s + 0.1)
        await b.directory.renew_now()
        clock.advance(BY_HAND.reap_grace_s - 0.1)
        await b.directory.renew_now()
        await a.directory.renew_now()
        clock.advance(0.2)
        await b.directory.renew_now()
        await asyncio.sleep(0.02)
        assert await backend.holders("bob") == {"a.0": 1}

    async def test_after_an_outage_everybody_gets_a_new_chance(self, holder: StartHolder) -> None:
        """Fails if the first replica back after an outage reaps all others: they could not have renewed either."""
        clock = ManualClock()
        backend = MemoryDirectory(clock)
        wiretap = Wiretap(backend)
        a = await holder("a", backend, BY_HAND, clock)
        b = await holder("b", wiretap, BY_HAND, clock)
        await a.connect("bob")
        clock.advance(BY_HAND.lease_ttl_s)
        await b.directory.renew_now()
        wiretap.broken = "before"
        clock.advance(60)
        await b.directory.renew_now()
        wiretap.broken = None
        await b.directory.renew_now()
        await asyncio.sleep(0.02)
        assert await backend.holders("bob") == {"a.0": 1}
        clock.advance(BY_HAND.reap_grace_s)
        await b.directory.renew_now()
        await eventually(lambda: holds(backend, "bob"))

    async def test_a_reaping_that_failed_is_tried_again(self, holder: StartHolder) -> None:
        """Fails if a dead replica's users stay for ever because Redis was away at the wrong moment."""
        clock = ManualClock()
        backend = MemoryDirectory(clock)
        wiretap = Wiretap(backend)
        a = await holder("a", backend, BY_HAND, clock)
        b = await holder("b", wiretap, BY_HAND, clock)
        await a.connect("bob")
        await a.crash()
        clock.advance(BY_HAND.lease_ttl_s)
        await b.directory.renew_now()
        clock.advance(BY_HAND.reap_grace_s)
        await b.directory.renew_now()
        wiretap.broken = "before"
        await eventually(lambda: wiretap.count("doom") == 1)
        assert await backend.holders("bob") == {"a.0": 1}
        wiretap.broken = None
        for _ in range(2):
            await b.directory.renew_now()
            clock.advance(BY_HAND.reap_grace_s)
        await eventually(lambda: holds(backend, "bob"))

    @pytest.mark.slow
    async def test_a_process_that_is_frozen_and_thaws_and_is_killed(
        self, holder: StartHolder, redis_server: RedisServer, redis_backend: RedisDirectory, namespace: str
    ) -> None:
        """Fails if with real processes and signals it is otherwise than above.

        SIGSTOP: the others forget its users. SIGCONT: it enters them again. SIGKILL: they are forgotten for good.
        """
        b = await holder("b")
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "heliograph", "serve", "--port", str(port), "--name", "a"),
            env={
                **os.environ,
                "HELIOGRAPH_AUTH__MODE": "open",
                "HELIOGRAPH_REDIS__URL": redis_server.url,
                "HELIOGRAPH_REDIS__PREFIX": f"{namespace}:",
                "HELIOGRAPH_BUS__CHANNEL": f"{namespace}:events",
                "HELIOGRAPH_DIRECTORY__LEASE_TTL_S": "0.6",
                "HELIOGRAPH_DIRECTORY__RENEW_INTERVAL_S": "0.03",
                "HELIOGRAPH_LOG__LEVEL": "error",
            },
        )
        try:
            await eventually(lambda: _listens(port), within_s=10)
            assert await _replicas_are(b, "a", "b")
            async with Client(f"http://127.0.0.1:{port}", user="bob"):
                [before] = await redis_backend.holders("bob")
                process.send_signal(signal.SIGSTOP)
                await eventually(lambda: holds(redis_backend, "bob"))
                assert await _replicas_are(b, "b")
                process.send_signal(signal.SIGCONT)
                await eventually(lambda: holds(redis_backend, "bob", 1))
                assert await redis_backend.holders("bob") != {before: 1}
                process.kill()
                await eventually(lambda: holds(redis_backend, "bob"))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _a_life(a: Holder, backend: DirectoryBackend, watch: Watch) -> None:
    """Have the tasks of the directory go everywhere: enter, renew, reap."""
    try:
        await a.connect("carol")
        a.disconnect("carol")
        await eventually(lambda: holds(backend, "carol"))
        await eventually(lambda: holds(backend, "bob"))
        await eventually(lambda: a.described > 6)
    finally:
        watch.over()


async def on_name_is(backend: DirectoryBackend, user: str, expected: dict[str, int]) -> bool:
    return await on_name(backend, user) == expected


async def _only_lease(backend: DirectoryBackend, user: str) -> str:
    [lease] = await backend.holders(user)
    return lease


async def _replicas_are(holder: Holder, *names: str) -> bool:
    return [info.name for info in await holder.directory.replicas()] == list(names)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def _no_connections(admin: RedisAdmin) -> bool:
    return await admin.connections() == []


async def _works(question: Callable[..., Any], *arguments: Any) -> bool:
    """The answer, or False while Redis cannot be asked."""
    try:
        return bool(await question(*arguments))
    except BusUnavailable:
        return False

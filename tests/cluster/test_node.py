"""A replica as a member of the cluster: joining, draining, leaving."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from heliograph.ports import BusState
from heliograph.protocol.codes import CloseCode
from tests.support.members import Device, Member, Members
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


@pytest.fixture
async def members(redis_server: RedisServer, namespace: str) -> AsyncIterator[Members]:
    async with Members(redis_server.url, namespace) as members:
        yield members


async def crowd(member: Member, count: int, *, leave: bool = True) -> list[Device]:
    """So many users, who leave (if they do) when they are closed, as a transport sees to it."""
    devices = [await member.connect(f"user-{number}") for number in range(count)]
    for device in devices:
        device.sink.on_close = (lambda device=device: member.disconnect(device)) if leave else None
    return devices


class TestStart:
    async def test_a_replica_without_redis_is_ready_at_once(self, members: Members) -> None:
        """Fails if one replica on its own waits for a bus that it has not."""
        one = await members.start(redis_url=None, ready=False)
        assert one.replica.node.ready
        assert one.replica.bus.state is BusState.DISABLED

    async def test_an_absent_redis_delays_readiness_and_not_the_start(
        self, own_redis: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a replica dies because Redis comes up later, or never notices that it is there."""
        own_redis.stop()
        async with Members(own_redis.url, namespace) as members:
            with caplog.at_level(logging.WARNING):
                one = await members.start(ready=False)
            assert not one.replica.node.ready
            assert "started without the bus" in caplog.text
            own_redis.start()
            await eventually(lambda: one.replica.node.ready)

    async def test_starting_twice_changes_nothing(self, members: Members) -> None:
        """Fails if a second start opens a second reader: every message would come twice."""
        one, two = await members.several(2)
        await one.replica.node.start()
        bob = await one.connect("bob")
        await two.send("bob", "once")
        await two.send("bob", "and for all")
        await eventually(lambda: bob.got[-1:] == ["and for all"])
        assert bob.got == ["once", "and for all"]

    async def test_start_stop_start_again(self, members: Members) -> None:
        """Fails if a stopped replica cannot join again, or joins without what it needs to hear and to be found."""
        one, two = await members.several(2)
        for round_number in range(3):
            await one.replica.node.stop()
            assert not one.replica.node.ready
            await one.replica.node.start()
            await eventually(lambda: one.replica.node.ready)
            bob = await one.connect("bob")
            await two.send("bob", round_number)
            await eventually(lambda bob=bob, number=round_number: bob.got == [number])
            one.disconnect(bob)

    async def test_what_it_says_of_itself(self, members: Members) -> None:
        """Fails if the console and the other replicas are told something else than what is."""
        one = await members.start("replica-7")
        await one.connect("bob")
        await one.connect("bob")
        info = one.replica.node.describe()
        assert (info.name, info.node_id) == ("replica-7", one.replica.bus.node_id)
        assert (info.connections, info.users) == (2, 1)
        assert (info.ready, info.draining) == (True, False)
        await eventually(lambda: _counted(one, 2))


class TestRunning:
    async def test_what_it_asks_every_second_goes_over_the_link(self, own_redis: RedisServer, namespace: str) -> None:
        """Fails if that is asked with redis-py's pool, which holds up messages several times as long."""
        async with Members(own_redis.url, namespace) as members:
            one = await members.start()
            await one.connect("bob")
            for command in ("PUBLISH", "XRANGE", "HMGET"):  # the canary, commands, the bus's counters
                await eventually(lambda command=command: own_redis.calls(command) >= 2)
            async with RedisAdmin(own_redis.url) as admin:
                connected = await admin.connections()
            assert sorted(each["sub"] != "0" for each in connected) == [
                False,
                False,
                True,
            ]  # the link, the one for bulk reads, the listener


class TestStop:
    async def test_the_order_of_leaving(self, members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if the listener is stopped after the connections are closed (S2.5), or users are left to run out."""
        one = await members.start()
        steps: list[str] = []

        def record(owner: object, name: str) -> None:
            method = getattr(owner, name)

            def recorded(*arguments: object) -> object:
                steps.append(name)
                return method(*arguments)

            monkeypatch.setattr(owner, name, recorded)

        bus = one.bus
        record(one.replica.directory._backend, "reap")
        record(bus, "stop_listening")
        record(bus._wire, "say")
        record(one.redis.client, "aclose")
        await one.replica.node.stop()
        # `close` stops the listener again, as it may be called alone.
        assert steps == ["reap", "stop_listening", "stop_listening", "say", "aclose"]

    async def test_stopping_twice_or_before_starting_is_harmless(self, members: Members) -> None:
        """Fails if a stop depends on what came before it."""
        one = await members.start()
        await one.replica.node.stop()
        await one.replica.node.stop()

    async def test_nothing_stays_open_after_a_restart(self, own_redis: RedisServer, namespace: str) -> None:
        """Fails if a replica that was stopped, started and stopped again leaves a connection to Redis open."""
        async with Members(own_redis.url, namespace) as members:
            one = await members.start()
            for _ in range(2):
                await one.replica.node.stop()
                await one.replica.node.start()
                await eventually(lambda: one.replica.node.ready)
            await one.replica.node.stop()
            await eventually(lambda: len(own_redis.command("CLIENT", "LIST").splitlines()) == 1)  # redis-cli itself

    @pytest.mark.parametrize("turns", range(8))
    async def test_no_moment_is_wrong_for_stopping(self, members: Members, turns: int) -> None:
        """Fails if a task that talks to Redis loses its cancellation: the replica would never end.

        redis-py sends under `asyncio.wait_for`, which on Python 3.11 can lose one (gh-86296).
        """
        one = await members.start()
        for number in range(5):
            device = await one.connect(f"user-{number}")
            one.disconnect(device)
            for _ in range(turns):
                await asyncio.sleep(0)
            stopping = asyncio.create_task(one.replica.node.stop())
            _, late = await asyncio.wait([stopping], timeout=2)
            if late:
                await _end_by_force(stopping)
                pytest.fail("stop() waits for a task that has swallowed its cancellation")
            await one.replica.node.start()
            await eventually(lambda: one.replica.node.ready)

    @pytest.mark.usefixtures("short_timeout")
    async def test_stopping_while_redis_is_frozen_takes_no_longer_than_one_time_out(
        self, own_redis: RedisServer, namespace: str
    ) -> None:
        """Fails if leaving waits for each of several commands that nobody answers."""
        async with Members(own_redis.url, namespace) as members:
            one = await members.start()
            await one.connect("bob")
            own_redis.freeze()
            async with asyncio.timeout(3):
                await one.replica.node.stop()
            own_redis.thaw()


class TestDrain:
    async def test_nobody_here_is_done_at_once(self, members: Members) -> None:
        """Fails if draining an empty replica waits for its window; fails if a draining one still looks ready."""
        one = await members.start(drain={"window_s": 30, "grace_s": 30, "deadline_s": 60})
        async with asyncio.timeout(1):
            await one.replica.node.drain()
        assert not one.replica.node.ready
        assert one.replica.node.describe().draining

    async def test_the_others_are_told_at_once(self, members: Members) -> None:
        """Fails if a draining replica is shown as ready until its lease is renewed some time later."""
        one, two = await members.several(2, directory={"renew_interval_s": 30, "lease_ttl_s": 60})
        await one.replica.node.drain()
        (seen,) = [info for info in await two.replica.directory.replicas() if info.name == "replica-1"]
        assert (seen.draining, seen.ready) == (True, False)

    async def test_each_client_is_told_when_to_come_back_and_then_closed(self, members: Members) -> None:
        """Fails if a client is not told, is told twice, or is closed before it was told, or with another code."""
        one = await members.start(redis_url=None, drain={"per_second": 1000, "window_s": 0.2, "grace_s": 0.05})
        devices = await crowd(one, 30)
        await one.replica.node.drain()
        for device in devices:
            (told,) = device.of("reconnect")
            assert device.sink.frames[-1] == told
            assert device.sink.closed == CloseCode.SHUTDOWN
        assert one.replica.hub.connections == 0

    async def test_clients_are_spread_over_the_window(self, members: Members) -> None:
        """Fails if all are told to come back in the same moment, or are closed in one go."""
        one = await members.start(redis_url=None, drain={"per_second": 50, "window_s": 10, "grace_s": 0.05})
        devices = await crowd(one, 20)  # at 50 a second: 400 ms
        loop = asyncio.get_running_loop()
        closed_at: dict[int, float] = {}
        for number, device in enumerate(devices):

            def left(number: int = number, device: Device = device) -> None:
                closed_at[number] = loop.time()
                one.disconnect(device)

            device.sink.on_close = left
        started_at = loop.time()
        await one.replica.node.drain()
        told_ms = [device.of("reconnect")[0]["in_ms"] for device in devices]
        assert sorted(told_ms) == [20 * number for number in range(20)]
        closed_ms = {number: 1000 * (at - started_at) for number, at in closed_at.items()}
        assert all(closed_ms[number] >= told_ms[number] for number in range(20)), "nobody is closed before their time"
        assert max(closed_ms.values()) - min(closed_ms.values()) >= 300

    async def test_the_window_bounds_the_drain_of_many(self, members: Members) -> None:
        """Fails if a small `per_second` makes the drain of many longer than the window."""
        one = await members.start(redis_url=None, drain={"per_second": 1, "window_s": 0.2, "grace_s": 0})
        devices = await crowd(one, 50)
        async with asyncio.timeout(2):
            await one.replica.node.drain()
        assert all(0 <= device.of("reconnect")[0]["in_ms"] < 200 for device in devices)

    async def test_clients_who_leave_by_themselves_are_not_waited_for(self, members: Members) -> None:
        """Fails if a client that did as it was told is closed again, or keeps the drain waiting."""
        one = await members.start(redis_url=None, drain={"per_second": 100, "grace_s": 0.2, "deadline_s": 5})
        devices = await crowd(one, 5)
        draining = asyncio.create_task(one.replica.node.drain())
        await eventually(lambda: all(device.of("reconnect") for device in devices))
        for device in devices:
            one.disconnect(device)
        async with asyncio.timeout(1):
            await draining

    async def test_the_deadline_holds_with_a_client_that_does_not_leave(
        self, members: Members, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if one stuck client can hold up a deploy for ever."""
        one = await members.start(redis_url=None, drain={"grace_s": 0, "window_s": 0, "deadline_s": 0.3})
        (stuck,) = await crowd(one, 1, leave=False)
        async with asyncio.timeout(1):
            with caplog.at_level(logging.WARNING):
                await one.replica.node.drain()
        assert stuck.sink.closed == CloseCode.SHUTDOWN
        assert "1 connections left" in caplog.text

    async def test_a_slow_client_does_not_hold_the_others(self, members: Members) -> None:
        """Fails if telling, or closing, waits for a peer that does not read."""
        one = await members.start(redis_url=None, drain={"grace_s": 0, "window_s": 0})
        slow, fast = await crowd(one, 2)
        slow.outbox.pause()
        async with asyncio.timeout(1):
            await one.replica.node.drain()
        assert fast.of("reconnect")
        assert slow.sink.closed == fast.sink.closed == CloseCode.SHUTDOWN

    @pytest.mark.usefixtures("short_timeout")
    async def test_draining_goes_on_while_redis_is_frozen(self, own_redis: RedisServer, namespace: str) -> None:
        """Fails if clients are not sent off because the directory cannot be told."""
        async with Members(own_redis.url, namespace) as members:
            one = await members.start(drain={"grace_s": 0, "window_s": 0, "deadline_s": 3})
            (bob,) = await crowd(one, 1)
            own_redis.freeze()
            async with asyncio.timeout(2.5):
                await one.replica.node.drain()
            assert bob.of("reconnect")
            own_redis.thaw()


async def _counted(member: Member, connections: int) -> bool:
    (info,) = await member.replica.directory.replicas()
    return info.connections == connections


async def _end_by_force(stopping: asyncio.Task[None]) -> None:
    """Cancel what has swallowed its first cancellation, so that one failure does not become many."""
    while not stopping.done():
        for task in asyncio.all_tasks():
            if task.get_name().startswith(("directory-", "bus-")):
                task.cancel()
        await asyncio.wait([stopping], timeout=0.1)

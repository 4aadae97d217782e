"""Starting and stopping the listener: any number of times, at any moment, with nothing left behind."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from heliograph.backends.redis import link as link_module
from heliograph.backends.redis.wire import Wire
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.ports import BusState
from tests.cluster.pubsub_manager.conftest import MakeBus
from tests.support.cancelling import Watch, end
from tests.support.envelopes import content
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

HELLO = '{"target_user_id":"bob","message":"hello"}'


def bus_tasks() -> list[str]:
    """The names of the managers' tasks that are running."""
    names = (task.get_name() for task in asyncio.all_tasks())
    return sorted(name for name in names if name.startswith("bus-"))


async def stop(bus: PubSubManager) -> None:
    """Stop listening; fails if that takes long."""
    async with asyncio.timeout(2):
        await bus.stop_listening()


class TestListenerControl:
    async def test_started_twice_it_listens_once(
        self, make_bus: MakeBus, redis_server: RedisServer, admin: RedisAdmin
    ) -> None:
        """Fails if a second start makes a second reader: redis-py allows one, and each message would come twice."""
        got: list[object] = []
        bus = make_bus(redis_server.url)
        await bus.initialize()
        bus.start_listening(got.append)
        bus.start_listening()
        assert bus_tasks() == ["bus-canary", "bus-listen"]
        await eventually(lambda: bus.ready)
        bus.start_listening()
        assert bus_tasks() == ["bus-canary", "bus-listen"]
        assert await admin.subscribers(bus.channel) == 1
        await admin.publish(bus.channel, HELLO)
        await eventually(lambda: got)
        assert len(got) == 1

    async def test_stopping_ends_both_tasks_and_says_so(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if the reader or the canary goes on, or if a bus that nobody reads calls itself ready."""
        bus = make_bus(redis_server.url)
        bus.start_listening()
        await eventually(lambda: bus.ready)
        await stop(bus)
        assert bus_tasks() == []
        assert bus.state is BusState.INITIALIZED
        assert not bus.ready

    async def test_the_subscription_outlives_a_stop(
        self, make_bus: MakeBus, redis_server: RedisServer, admin: RedisAdmin
    ) -> None:
        """Fails if what is published between stop and start is lost although the connection was open all the time."""
        got: list[Any] = []
        bus = make_bus(redis_server.url)
        bus.start_listening(lambda received: got.append(content(received)))
        await eventually(lambda: bus.ready)
        for round_number in range(3):
            await stop(bus)
            for number in range(10):
                payload = f'{{"target_user_id":"bob","message":{round_number * 10 + number}}}'
                assert await admin.publish(bus.channel, payload) == 1
            bus.start_listening()
        await eventually(lambda: len(got) == 30)
        assert got == list(range(30))
        assert bus.stats.resubscriptions == 0

    async def test_stopped_in_the_middle_of_a_message_it_reads_the_rest_later(
        self, make_bus: MakeBus, redis_server: RedisServer, admin: RedisAdmin
    ) -> None:
        """Fails if a cancelled read throws away the bytes that it had already."""
        got: list[Any] = []
        bus = make_bus(redis_server.url, canary_timeout_s=5)
        bus.start_listening(lambda received: got.append(content(received)))
        await eventually(lambda: bus.ready)
        text = "x" * 3_000_000
        publishing = asyncio.create_task(admin.publish(bus.channel, f'{{"target_user_id":"b","message":"{text}"}}'))
        while not got:
            await asyncio.sleep(0)
            await stop(bus)
            bus.start_listening()
        await publishing
        assert got == [text]
        assert bus.stats.malformed == 0
        assert bus.stats.connection_losses == 0

    async def test_stopping_what_never_ran_does_nothing(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if `stop_listening` needs a listener, or has an effect twice."""
        bus = make_bus(redis_server.url)
        await stop(bus)
        before = bus.state
        assert before is BusState.NEW
        await bus.initialize()
        await stop(bus)
        await stop(bus)
        assert bus.state is BusState.INITIALIZED

    async def test_a_disabled_bus_starts_nothing(self, make_bus: MakeBus) -> None:
        """Fails if a replica without Redis runs tasks that try to reach it."""
        bus = make_bus(None)
        bus.start_listening()
        assert bus_tasks() == []
        await stop(bus)
        assert bus.state is BusState.DISABLED

    @pytest.mark.parametrize("turns", range(12))
    async def test_stopped_soon_after_the_start_it_stops(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin, turns: int
    ) -> None:
        """Fails if a cancellation that comes while the first connections are made is lost, and with it the stop."""
        bus = make_bus(own_redis.url)
        bus.start_listening()
        for _ in range(turns):
            await asyncio.sleep(0)
        await stop(bus)
        assert bus_tasks() == []
        await bus.close()
        await eventually(lambda: _no_connections(own_admin))

    async def test_two_stops_at_a_time_both_wait(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if a stop returns while the listener is still ending."""
        bus = make_bus(redis_server.url)
        bus.start_listening()
        await eventually(lambda: bus.ready)
        await asyncio.gather(bus.stop_listening(), bus.stop_listening())
        assert bus_tasks() == []


class Hold:
    """Stands in for one await of the listen loop: the listener stays there until it is cancelled."""

    def __init__(self, when: str) -> None:
        self._when = when
        self.there = asyncio.Event()
        self.armed = True

    def around(self, function: Callable[..., Awaitable[Any]], *, work_first: bool = False) -> Callable[..., Any]:
        """`work_first`: what is begun here must be finished, so the listener is held after it."""

        async def held(*arguments: Any, **named: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None
            if not self.armed or task.get_name() != "bus-listen":
                return await function(*arguments, **named)
            self.armed = False
            self.there.set()
            if self._when == "before":
                task.cancel()
                return await function(*arguments, **named)
            if work_first:
                await function(*arguments, **named)
            await asyncio.Event().wait()
            raise AssertionError("nobody sets that event")

        return held


# What the listen loop waits for, and whether the listener must have lost its connection to come there.
AWAITS: dict[str, tuple[type | Any, str, bool]] = {
    "the ping": (link_module, "await_callback", False),
    "connecting": (Wire, "open", False),
    "reading": (asyncio, "wait", False),
    "closing the lost connection": (Wire, "close", True),
    "the back-off": (asyncio, "sleep", True),
}


@pytest.mark.usefixtures("quick_backoff")
class TestCancelled:
    @pytest.mark.parametrize("when", ["before", "during"])
    @pytest.mark.parametrize("place", AWAITS)
    async def test_before_and_during_each_await_of_the_loop(
        self,
        make_bus: MakeBus,
        own_redis: RedisServer,
        own_admin: RedisAdmin,
        monkeypatch: pytest.MonkeyPatch,
        place: str,
        when: str,
    ) -> None:
        """Fails if the task does not end there, leaves a task or a connection behind, or cannot be started again."""
        bus, admin = make_bus(own_redis.url), own_admin
        owner, name, lost = AWAITS[place]
        if lost:
            bus.start_listening()
            await eventually(lambda: bus.ready)
        hold = Hold(when)
        monkeypatch.setattr(owner, name, hold.around(getattr(owner, name), work_first=name == "close"))
        if lost:
            await admin.cut_listeners()
        else:
            bus.start_listening()
        async with asyncio.timeout(2):
            await hold.there.wait()
        await stop(bus)
        assert bus_tasks() == []
        await works_again(bus, admin)
        await leaves_nothing(bus, admin)

    @pytest.mark.slow
    @pytest.mark.parametrize("turns", range(2))
    async def test_wherever_the_listener_waits_a_stop_ends_it(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin, turns: int
    ) -> None:
        """Fails if there is an await, in here or in redis-py, at which `stop_listening` waits for ever.

        Through a life with everything in it: connect, subscribe, read, lose the connection, back off, again.
        `turns`: how many turns of the loop after the listener began to wait.
        """
        await self._stop_everywhere(make_bus, own_redis, own_admin, "_listen_loop", turns, at_least=15)

    @pytest.mark.slow
    @pytest.mark.parametrize("turns", range(2))
    async def test_wherever_the_canary_waits_a_stop_ends_it(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin, turns: int
    ) -> None:
        """Fails if there is an await at which the canary does not end; as above. Each of five awaits twice."""
        await self._stop_everywhere(make_bus, own_redis, own_admin, "_canary_loop", turns, at_least=9)

    async def _stop_everywhere(
        self, make_bus: MakeBus, redis: RedisServer, admin: RedisAdmin, loop: str, turns: int, *, at_least: int
    ) -> None:
        stubborn = []
        for at in itertools.count(1):
            bus = make_bus(redis.url, canary_interval_s=0.01)
            watch = Watch(at)
            setattr(bus, loop, watch.around(getattr(bus, loop)))
            bus.start_listening()
            life = asyncio.create_task(_a_life(bus, admin, watch))
            reached = await watch.place()
            for _ in range(turns):
                await asyncio.sleep(0)
            try:
                async with asyncio.timeout(0.5):
                    await bus.stop_listening()
            except TimeoutError:
                stubborn.append(f"{at}: {watch.where}")
            await leaves_nothing(bus, admin)
            if not reached:
                await life
                break
            await end(life)
        assert at > at_least
        assert stubborn == []


async def _a_life(bus: PubSubManager, admin: RedisAdmin, watch: Watch) -> None:
    """Have the listener go everywhere."""
    try:
        await eventually(lambda: bus.ready)
        await admin.publish(bus.channel, HELLO)
        await eventually(lambda: bus.stats.received)
        await admin.cut_listeners()
        await eventually(lambda: bus.stats.resubscriptions and bus.ready)
        await eventually(lambda: sum(bus.stats.lag.counts) >= 5)  # canaries that were heard
    finally:
        watch.over()


async def works_again(bus: PubSubManager, admin: RedisAdmin) -> None:
    """Start the listener again and see that a message arrives."""
    got: list[object] = []
    bus.start_listening(got.append)
    await eventually(lambda: bus.ready)
    await admin.publish(bus.channel, HELLO)
    await eventually(lambda: got)


async def leaves_nothing(bus: PubSubManager, admin: RedisAdmin) -> None:
    """Close the bus and see that no connection is left of it."""
    await bus.close()
    assert bus_tasks() == []
    await eventually(lambda: _no_connections(admin))


async def _no_connections(admin: RedisAdmin) -> bool:
    return await admin.connections() == []

"""`initialize`: connect, ping, subscribe; once, and never by halves."""

import asyncio
import itertools
import time

import pytest

from heliograph.errors import BadSetting, BusUnavailable
from heliograph.ports import BusState
from tests.cluster.pubsub_manager.conftest import MakeBus
from tests.support.cancelling import Watch, end
from tests.support.envelopes import envelope
from tests.support.ports import free_port
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually


class TestInitialize:
    async def test_pings_and_subscribes_to_the_shared_channel_and_the_two_of_its_own(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin, namespace: str
    ) -> None:
        """Fails if a channel is missing, if Redis is not asked whether it answers, or if anybody reads already."""
        bus = make_bus(own_redis.url)
        before = bus.state
        assert before is BusState.NEW
        await bus.initialize()
        await eventually(lambda: own_redis.calls("subscribe"))
        assert await own_admin.channels(namespace) == {bus.channel, bus.own_channel, bus.inbox}
        assert own_redis.calls("ping") >= 2  # redis-cli's own when the server was started, and ours
        assert bus.state is BusState.INITIALIZED
        assert not bus.ready

    async def test_is_idempotent(self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin) -> None:
        """Fails if a second call opens another connection or subscribes once more."""
        bus = make_bus(own_redis.url)
        await bus.initialize()
        # The own channel, then the shared one: its confirmation, the last, says that all others stand.
        await eventually(lambda: own_redis.calls("subscribe") == 2)
        before = await own_admin.connections()
        await bus.initialize()
        await bus.initialize()
        assert [client["id"] for client in await own_admin.connections()] == [client["id"] for client in before]
        assert own_redis.calls("subscribe") == 2

    async def test_is_idempotent_while_another_call_is_at_it(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if of two calls at a time each opens a connection: one of them would never be read or closed."""
        bus = make_bus(own_redis.url)
        await asyncio.gather(bus.initialize(), bus.initialize(), bus.initialize())
        await eventually(lambda: own_redis.calls("subscribe"))
        assert await own_admin.subscribers(bus.channel) == 1
        await bus.close()
        await eventually(lambda: _no_connections(own_admin))

    async def test_leaves_the_listener_alone_when_it_is_started_meanwhile(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if a listener that starts during `initialize` opens a second connection beside it."""
        bus = make_bus(own_redis.url)
        initializing = asyncio.create_task(bus.initialize())
        await asyncio.sleep(0)
        bus.start_listening()
        await initializing
        await eventually(lambda: bus.ready)
        assert await own_admin.subscribers(bus.channel) == 1
        await bus.close()
        await eventually(lambda: _no_connections(own_admin))

    async def test_without_redis_it_says_so_and_leaves_nothing_open(self, make_bus: MakeBus) -> None:
        """Fails if the error is not the one that callers know, or if the manager believes itself connected."""
        bus = make_bus(f"redis://127.0.0.1:{free_port()}/0")
        with pytest.raises(BusUnavailable, match="storage cannot be reached"):
            await bus.initialize()
        assert bus.state is BusState.NEW
        assert not bus.ready
        with pytest.raises(BusUnavailable, match="not initialised"):
            await bus.publish(envelope(), lease="a")

    async def test_with_a_redis_that_does_not_answer_it_gives_up_and_leaves_nothing_open(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if `initialize` waits for a frozen Redis without an end, or leaves its attempt open."""
        monkeypatch.setattr("heliograph.backends.redis.client.TIMEOUT_S", 0.3)
        bus = make_bus(own_redis.url)
        own_redis.freeze()
        began = time.monotonic()
        with pytest.raises(BusUnavailable):
            await bus.initialize()
        assert time.monotonic() - began < 1.5
        own_redis.thaw()
        await eventually(lambda: _no_connections(own_admin))

    async def test_a_subscription_that_fails_leaves_nothing_open(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if the state goes on although only the ping got through, or if half a subscription stays."""
        async with TcpProxy(own_redis.port) as proxy:
            bus = make_bus(proxy.url)
            proxy.refuse_after = 1  # the ping's connection; not the listening one
            with pytest.raises(BusUnavailable):
                await bus.initialize()
            assert bus.state is BusState.NEW
            assert await own_admin.connections("pubsub") == []
            proxy.refuse_after = -1
            await bus.initialize()
            await eventually(lambda: _subscribers_are(own_admin, bus.channel, 1))
            await bus.close()

    async def test_redis_may_come_later(self, make_bus: MakeBus, own_redis: RedisServer) -> None:
        """Fails if an attempt that failed spoils the next one."""
        own_redis.stop()
        bus = make_bus(own_redis.url)
        with pytest.raises(BusUnavailable):
            await bus.initialize()
        own_redis.start()
        await bus.initialize()
        assert bus.state is BusState.INITIALIZED

    @pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", None], ids=["switched-off", "no-url"])
    async def test_disabled_it_does_nothing(self, make_bus: MakeBus, url: str | None) -> None:
        """Fails if one replica without Redis tries to reach one, or is not ready for lack of one."""
        bus = make_bus(url, enabled=url is None)
        await bus.initialize()
        assert bus.state is BusState.DISABLED
        assert bus.ready

    async def test_works_again_after_close(
        self, make_bus: MakeBus, redis_server: RedisServer, admin: RedisAdmin
    ) -> None:
        """Fails if `close` leaves something behind that keeps the manager from a second life."""
        bus = make_bus(redis_server.url)
        for _ in range(3):
            await bus.initialize()
            await eventually(lambda: _subscribers_are(admin, bus.channel, 1))
            await bus.close()
            await eventually(lambda: _subscribers_are(admin, bus.channel, 0))

    async def test_while_the_listener_runs_it_does_nothing(
        self, make_bus: MakeBus, redis_server: RedisServer, admin: RedisAdmin
    ) -> None:
        """Fails if the listener's connection is replaced under its hands."""
        bus = make_bus(redis_server.url)
        bus.start_listening()
        await bus.initialize()  # the listener is about to do it
        await eventually(lambda: bus.ready)
        await bus.initialize()
        assert bus.state is BusState.RUNNING
        assert await admin.subscribers(bus.channel) == 1

    async def test_cancelled_wherever_it_waits_it_leaves_nothing_open(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if a connection outlives an `initialize` that was cancelled, or if it cannot be called again."""
        for at in itertools.count(1):
            bus = make_bus(own_redis.url)
            watch = Watch(at)
            task = asyncio.create_task(watch.around(bus.initialize)())
            task.add_done_callback(lambda _, watch=watch: watch.over())  # type: ignore[misc]
            reached = await watch.place()
            await end(task)
            await bus.initialize()
            assert await own_admin.subscribers(bus.channel) == 1, watch.where
            await bus.close()
            await eventually(lambda: _no_connections(own_admin))
            if not reached:
                assert at > 5, "the ping, the subscription and their connections wait for something"
                return

    async def test_a_url_that_cannot_be_used_names_the_variable(self, make_bus: MakeBus) -> None:
        """Fails if an operator's typing error comes out as a stack trace of redis-py."""
        with pytest.raises(BadSetting, match="HELIOGRAPH_REDIS__URL"):
            make_bus("redis://127.0.0.1/0?socket_timeout=soon")


async def _no_connections(admin: RedisAdmin) -> bool:
    return await admin.connections() == []


async def _subscribers_are(admin: RedisAdmin, channel: str, count: int) -> bool:
    return await admin.subscribers(channel) == count

"""`close`: in order, at any time, quickly, and with nothing left open."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.backends.memory.bus import LocalBus
from heliograph.backends.redis import server
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.wire import Wire
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.errors import BusUnavailable
from heliograph.ports import BusState, Handler
from heliograph.settings import RedisSettings
from tests.cluster.pubsub_manager.conftest import MakeBus
from tests.support.envelopes import envelope
from tests.support.ports import free_port
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


async def ready(bus: PubSubManager, handler: Handler | None = None) -> PubSubManager:
    bus.start_listening(handler)
    await eventually(lambda: bus.ready)
    return bus


class TestShutdown:
    async def test_stops_then_unsubscribes_then_closes(
        self, make_bus: MakeBus, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if the order changes: closing under a live reader hangs, unsubscribing is a second one."""
        bus = await ready(make_bus(redis_server.url))
        listener = bus._listen_task
        assert listener is not None
        steps: list[tuple[str, bool]] = []

        def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*arguments: Any) -> Any:
                steps.append((name, listener.done()))
                return function(*arguments)

            return noted

        monkeypatch.setattr(Wire, "say", noting("unsubscribe", Wire.say))
        monkeypatch.setattr(Wire, "close", noting("close a connection", Wire.close))
        monkeypatch.setattr(Redis, "aclose", noting("close the pool", Redis.aclose))
        await bus.close()
        the_listener = the_link = the_bulk_link = ("close a connection", True)
        assert steps == [("unsubscribe", True), the_listener, the_link, the_bulk_link, ("close the pool", True)]

    async def test_frees_every_connection(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if Redis still counts a client of ours, be it the listener, the link or one of the pool."""
        bus = await ready(make_bus(own_redis.url))
        await asyncio.gather(*(bus.server.client.ping() for _ in range(10)))
        assert len(await own_admin.connections()) > 2
        await bus.close()
        await eventually(lambda: _no_connections(own_admin))
        assert bus.state is BusState.NEW
        assert not bus.ready

    async def test_twice_and_at_the_same_time(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if closing what is closed, or being closed, raises."""
        bus = await ready(make_bus(own_redis.url))
        await asyncio.gather(bus.close(), bus.close())
        await bus.close()
        await eventually(lambda: _no_connections(own_admin))

    @pytest.mark.parametrize("url", [f"redis://127.0.0.1:{free_port()}/0", None], ids=["new", "disabled"])
    async def test_what_was_never_opened(self, make_bus: MakeBus, url: str | None) -> None:
        """Fails if `close` needs a connection, or if it changes what a disabled bus is."""
        bus = make_bus(url)
        before = bus.state
        await bus.close()
        assert bus.state is before

    async def test_what_was_initialised_and_never_read(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if only a listener's end closes the subscription."""
        bus = make_bus(own_redis.url)
        await bus.initialize()
        await bus.close()
        await eventually(lambda: _no_connections(own_admin))

    @pytest.mark.parametrize("noticed", [False, True], ids=["at-once", "after-the-loss"])
    async def test_with_redis_dead_it_is_quick(
        self, make_bus: MakeBus, own_redis: RedisServer, noticed: bool
    ) -> None:
        """Fails if a shut-down waits for a Redis that is gone, or fails because of it."""
        bus = await ready(make_bus(own_redis.url))
        own_redis.stop()
        if noticed:
            await eventually(lambda: bus.state is BusState.LOST)
        began = time.monotonic()
        await bus.close()
        assert time.monotonic() - began < 0.5
        assert bus.state is BusState.NEW

    @pytest.mark.parametrize("noticed", [False, True], ids=["at-once", "after-the-loss"])
    async def test_with_redis_frozen_it_is_bounded(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin, noticed: bool
    ) -> None:
        """Fails if a shut-down hangs on a Redis that accepts everything and answers nothing."""
        bus = await ready(make_bus(own_redis.url))
        own_redis.freeze()
        if noticed:
            await eventually(lambda: bus.state is BusState.LOST)
        began = time.monotonic()
        await bus.close()
        assert time.monotonic() - began < 2.5
        own_redis.thaw()
        await eventually(lambda: _no_connections(own_admin))

    async def test_a_publish_under_way_ends_with_an_error(self, make_bus: MakeBus, own_redis: RedisServer) -> None:
        """Fails if a sender waits for ever because the bus was closed under their message."""
        bus = make_bus(own_redis.url)
        await bus.initialize()
        own_redis.freeze()
        sending = asyncio.create_task(bus.publish(envelope(), lease="a"))
        await asyncio.sleep(0.05)
        await bus.close()
        async with asyncio.timeout(2):
            with pytest.raises(BusUnavailable):
                await sending

    async def test_an_error_in_closing_does_not_come_out(
        self, make_bus: MakeBus, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if a shut-down breaks off because a connection could not be closed in good form.

        Seen with rediss:// and a frozen Redis, which never answers the TLS goodbye; mocked because the tests have no
        certificates.
        """
        bus = await ready(make_bus(redis_server.url))
        close = Redis.aclose

        async def badly(client: Redis, *arguments: object) -> None:
            await close(client)
            raise RedisTimeoutError("Timed out closing connection after 1.0")

        monkeypatch.setattr(Redis, "aclose", badly)
        await bus.close()
        assert bus.state is BusState.NEW

    async def test_after_it_the_bus_can_live_again(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if a second life does not listen, does not publish, or is not closed as well as the first."""
        got: list[object] = []
        bus = make_bus(own_redis.url)
        for _ in range(2):
            got.clear()
            await bus.initialize()
            await ready(bus, got.append)
            await bus.publish(envelope(), lease="a")
            await eventually(lambda: got)
            await bus.close()
            await eventually(lambda: _no_connections(own_admin))

    async def test_a_server_that_it_was_given_stays_its_owners_to_close(
        self, own_redis: RedisServer, own_admin: RedisAdmin, namespace: str
    ) -> None:
        """Fails if closing the bus closes the connections of the directory too."""
        given = server.RedisServer(connect(own_redis.url), Keys(f"{namespace}:", f"{namespace}:events"), node_id="n")
        bus = await ready(PubSubManager(given))
        assert (bus.node_id, bus.channel) == ("n", f"{namespace}:events")
        await bus.close()
        await eventually(lambda: _connections_are(own_admin, 2))  # the two links
        await given.link.ask("PING")
        await given.close()
        await eventually(lambda: _no_connections(own_admin))

    async def test_disabled_it_has_nothing_to_close(self) -> None:
        """Fails if a bus that is switched off is one over Redis all the same."""
        bus = PubSubManager(redis=RedisSettings(url="redis://127.0.0.1:1/0"), enabled=False)
        assert isinstance(bus, LocalBus)
        assert not bus.enabled
        await bus.close()
        await bus.initialize()
        assert bus.ready

    async def test_after_it_nothing_goes_out(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if a closed bus opens a connection that nobody will close."""
        bus = await ready(make_bus(redis_server.url))
        await bus.close()
        with pytest.raises(BusUnavailable, match="lost"):
            await bus.publish(envelope(), lease="a")


async def _no_connections(admin: RedisAdmin) -> bool:
    return await admin.connections() == []


async def _connections_are(admin: RedisAdmin, count: int) -> bool:
    return len(await admin.connections()) == count

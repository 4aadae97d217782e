"""What goes wrong around the bus, and how it finds its way back without help."""

import asyncio
import logging
import statistics
import time
from collections import Counter
from typing import Any

import pytest

from heliograph.cluster import pubsub_manager
from heliograph.cluster.pubsub_manager import BACKOFF_FIRST_S, BACKOFF_MOST_S, PubSubManager
from heliograph.ports import BusState
from heliograph.protocol.events import Delivery
from tests.cluster.pubsub_manager.conftest import MakeBus
from tests.support.cancelling import end
from tests.support.envelopes import content, envelope
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

TIMEOUT_S = 0.6  # the canary's, as settings_for has it


async def hears(bus: PubSubManager, admin: RedisAdmin) -> None:
    """See that what a foreign program publishes now arrives, once."""
    got: list[Any] = []
    bus._handler = lambda received: got.append(content(received))
    await admin.publish(bus.channel, '{"target_user_id":"bob","message":"still there?"}')
    await eventually(lambda: got)
    assert got == ["still there?"]


async def hears_itself(bus: PubSubManager) -> None:
    """Wait for a canary that came after this call."""
    began = time.monotonic()
    await eventually(lambda: bus.canary_age_s < time.monotonic() - began)


@pytest.mark.usefixtures("quick_backoff")
class TestEdges:
    async def test_a_connection_that_redis_cuts_is_made_anew(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if a cut (CLIENT KILL, the output-buffer limit) goes unnoticed, uncounted or unrepaired."""
        told: list[float] = []
        bus = make_bus(own_redis.url)
        bus.start_listening(on_resubscribed=lambda: told.append(time.monotonic()))
        await eventually(lambda: bus.ready)
        assert len(told) == 1, "the log may have been read before there was a subscription"
        for cut in range(1, 4):
            assert await own_admin.cut_listeners() == 1
            await eventually(lambda cut=cut: bus.stats.resubscriptions == cut and bus.ready)
            assert len(told) - 1 == bus.stats.resubscriptions == bus.stats.connection_losses
            await hears(bus, own_admin)
        assert await own_admin.subscribers(bus.channel) == 1

    async def test_a_cut_of_the_listening_connection_costs_no_publisher_anything(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if messages are lost on healthy connections because another one was cut."""
        bus = make_bus(own_redis.url)
        bus.start_listening()
        await eventually(lambda: bus.ready)
        answers: Counter[object] = Counter()

        async def publisher() -> None:
            while True:
                answers[await bus.publish(envelope(), lease="a")] += 1
                await asyncio.sleep(0)  # its connection lies idle for a moment

        publishers = [asyncio.create_task(publisher()) for _ in range(8)]
        try:
            for cut in range(15):
                await own_admin.cut_listeners()
                await eventually(lambda cut=cut: bus.stats.connection_losses > cut)
                await eventually(lambda: bus.state is BusState.RUNNING)
            for task in publishers:
                if task.done():
                    await task  # its error says more than that there was one
        finally:
            await end(*publishers)
        assert list(answers) == [Delivery.OFFLINE]

    async def test_redis_killed_and_restarted(
        self, make_bus: MakeBus, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if the outage does not show, if the log does not say it, or if the bus does not come back."""
        bus = make_bus(own_redis.url)
        bus.start_listening()
        await eventually(lambda: bus.ready)
        own_redis.stop()
        await eventually(lambda: bus.state is BusState.LOST)
        assert not bus.ready
        assert [record for record in caplog.records if "bus connection lost" in record.getMessage()]
        own_redis.start()
        await eventually(lambda: bus.state is BusState.RUNNING)
        await eventually(lambda: bus.ready)
        assert bus.canary_age_s < TIMEOUT_S
        assert bus.stats.resubscriptions == 1
        async with RedisAdmin(own_redis.url) as admin:
            await hears(bus, admin)
        assert await bus.publish(envelope(), lease="a") is Delivery.OFFLINE

    async def test_redis_frozen_makes_it_unready_and_the_thaw_heals_it(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if a replica that hears nothing stays in service: the connection gives no error at all."""
        bus = make_bus(own_redis.url)
        bus.start_listening()
        await eventually(lambda: bus.ready)
        own_redis.freeze()
        began = time.monotonic()
        await eventually(lambda: not bus.ready)
        assert TIMEOUT_S - 0.2 < time.monotonic() - began < TIMEOUT_S + 0.5
        await eventually(lambda: bus.state is BusState.LOST)
        own_redis.thaw()
        await eventually(lambda: bus.ready)
        await hears(bus, own_admin)
        await eventually(lambda: _subscribers_are(own_admin, bus.channel, 1))

    async def test_a_deaf_connection_is_found_out_and_replaced(
        self,
        make_bus: MakeBus,
        own_redis: RedisServer,
        own_admin: RedisAdmin,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Fails if a subscription that silently brings nothing any more is trusted for ever.

        Publishing goes on without an error all the while, so only the canary can tell.
        """
        async with TcpProxy(own_redis.port) as network:
            bus = make_bus(network.url)
            bus.start_listening()
            await eventually(lambda: bus.ready)
            assert network.deafen(b"SUBSCRIBE") == 1
            assert await bus.publish(envelope(), lease="a") is Delivery.OFFLINE
            await eventually(lambda: not bus.ready)
            await eventually(lambda: bus.stats.resubscriptions == 1 and bus.ready)
            assert "nothing heard for 0.6 s" in caplog.text
            assert bus.stats.publish_errors == 0
            await hears(bus, own_admin)
            await bus.close()

    async def test_a_stall_of_this_process_is_no_deafness(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if a replica that stood still (SIGSTOP, a long collection) throws away what waits for it.

        Everything that was published meanwhile is in the connection's buffer; building it anew would lose that.
        """
        got: list[Any] = []
        bus = make_bus(own_redis.url, canary_timeout_s=0.3)
        bus.start_listening(lambda received: got.append(content(received)))
        await eventually(lambda: bus.ready)
        for number in range(3):
            own_redis.command("PUBLISH", bus.channel, f'{{"target_user_id":"bob","message":{number}}}')
        time.sleep(0.5)  # noqa: ASYNC251 - the stall
        await eventually(lambda: bus.ready)
        await hears(bus, own_admin)
        assert got == [0, 1, 2]
        assert bus.stats.connection_losses == 0

    async def test_redis_may_be_absent_when_listening_starts(
        self, make_bus: MakeBus, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a replica must be started after Redis, or says nothing of what it waits for."""
        own_redis.stop()
        bus = make_bus(own_redis.url)
        bus.start_listening()
        await eventually(lambda: bus.stats.connection_losses >= 3)
        assert bus.state is BusState.LOST
        assert not bus.ready
        assert "reconnecting in" in caplog.text
        own_redis.start()
        await eventually(lambda: bus.ready)
        assert bus.stats.resubscriptions == 0  # the first subscription: there was nothing before it to be missed

    async def test_a_redis_that_is_down_longer_than_any_back_off_can_count(
        self, make_bus: MakeBus, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if the listener dies of an outage of some 45 minutes: 1,024 tries overflow a double."""
        monkeypatch.setattr(pubsub_manager, "BACKOFF_FIRST_S", 1e-6)
        monkeypatch.setattr(pubsub_manager, "BACKOFF_MOST_S", 1e-6)
        own_redis.stop()
        bus = make_bus(own_redis.url)
        bus.start_listening()
        await eventually(lambda: bus.stats.connection_losses > 1_100, within_s=15)
        own_redis.start()
        await eventually(lambda: bus.ready)

    async def test_an_error_that_nobody_expected_is_critical_and_ends_readiness(
        self,
        make_bus: MakeBus,
        redis_server: RedisServer,
        admin: RedisAdmin,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Fails if the listener dies in silence while the replica goes on calling itself ready."""
        bus = make_bus(redis_server.url)
        bus.start_listening()
        await eventually(lambda: bus.ready)

        def broken(payload: bytes) -> None:
            raise ZeroDivisionError("a bug in here")

        monkeypatch.setattr(pubsub_manager, "decode_envelopes", broken)
        began = time.monotonic()
        await admin.publish(bus.channel, '{"target_user_id":"bob","message":1}')
        await eventually(lambda: not bus.ready)
        assert time.monotonic() - began < TIMEOUT_S + 0.5
        [record] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ZeroDivisionError)
        monkeypatch.undo()
        await bus.stop_listening()
        bus.start_listening()
        await eventually(lambda: bus.ready)


class TestBackoff:
    def test_grows_to_a_bound_and_never_beyond(self) -> None:
        """Fails if replicas hammer a Redis that is coming up, or if an outage of hours makes them wait for hours."""
        for failures in [*range(20), 1_023, 1_024, 10_000]:
            most = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 30))
            delays = [pubsub_manager._backoff_s(failures, 60) for _ in range(200)]
            assert 0 <= min(delays) <= max(delays) <= most
            assert max(delays) > most * 0.8

    def test_leaves_the_canary_time_to_come_back(self) -> None:
        """Fails if all replicas count as deaf because they wait, while a Redis that was away answers again."""
        assert 0.2 < max(pubsub_manager._backoff_s(10, 0.6) for _ in range(200)) <= 0.3

    def test_is_jittered(self) -> None:
        """Fails if replicas that lost Redis together come back together."""
        delays = [pubsub_manager._backoff_s(10, 60) for _ in range(500)]
        assert len(set(delays)) > 490
        assert statistics.pstdev(delays) > BACKOFF_MOST_S / 5

    async def test_begins_anew_after_a_connection_that_was_good(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if a bus that was cut now and then over a day waits longer each time, or if an outage does not count.

        What was heard before the outage says nothing about the tries made during it.
        """
        counted: list[int] = []

        def noted(failures: int, _timeout_s: float) -> float:
            counted.append(failures)
            return 0.01

        monkeypatch.setattr(pubsub_manager, "_backoff_s", noted)
        bus = make_bus(own_redis.url)
        bus.start_listening()
        for cuts in range(1, 4):
            await hears_itself(bus)
            await own_admin.cut_listeners()
            await eventually(lambda cuts=cuts: bus.stats.resubscriptions == cuts)
        await hears_itself(bus)
        assert counted == [0, 0, 0]
        own_redis.stop()
        await eventually(lambda: len(counted) > 10)
        assert counted[3:10] == [0, 1, 2, 3, 4, 5, 6]


async def _subscribers_are(admin: RedisAdmin, channel: str, count: int) -> bool:
    return await admin.subscribers(channel) == count

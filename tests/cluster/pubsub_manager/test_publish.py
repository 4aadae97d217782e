"""`publish`: what goes out, what it costs, what the sender is told, and what an outage does to it."""

import asyncio
import itertools
import json
import logging
import time

import pytest

from heliograph.backends.redis.directory import RedisDirectory
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.errors import BusUnavailable
from heliograph.ports import BusState
from heliograph.protocol.events import Delivery
from tests.cluster.pubsub_manager.conftest import MakeBus
from tests.support.cancelling import Watch, end
from tests.support.envelopes import KOREAN, content, envelope
from tests.support.redis_admin import Eavesdropper, RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.replica_info import replica_info
from tests.support.settling import believe_at_once
from tests.support.waiting import eventually


async def held(bus: PubSubManager, user: str, *leases: str, settled: bool = True) -> None:
    """Have `leases` hold one connection of the user each."""
    directory = RedisDirectory(bus.server)
    for lease in leases:
        await directory.take(lease, replica_info(lease), ttl_s=30)
        await directory.hold(lease, {user: 1})
    if settled:
        await believe_at_once(bus.server.client, bus.server.keys)


class TestPublish:
    async def test_goes_out_as_json_that_any_program_can_read(
        self, make_bus: MakeBus, redis_server: RedisServer
    ) -> None:
        """Fails if the envelope is no plain JSON, loses a field, or if what is not ASCII does not survive."""
        bus = make_bus(redis_server.url)
        await bus.initialize()
        async with Eavesdropper(redis_server.url, bus.channel) as heard:
            sent = envelope("김철수", KOREAN, sender="alice", origin="replica-1", node_id="n1", sent_at="2026-01-01")
            await bus.publish(sent, lease="a")
            await eventually(lambda: heard.payloads)
        assert json.loads(heard.payloads[0]) == {
            "target_user_id": "김철수",
            "message": KOREAN,
            "message_id": "message-1",
            "sent_at": "2026-01-01",
            "from": "alice",
            "origin": "replica-1",
            "node_id": "n1",
        }
        assert "우주여행고양이".encode() in heard.payloads[0]

    @pytest.mark.parametrize("user", ["bob", "김철수", "{bob}", "}{#bob", "#bob", "🐈‍⬛", "مستخدم"])
    async def test_a_user_that_the_asking_lease_alone_holds_costs_no_publish(
        self, make_bus: MakeBus, own_redis: RedisServer, user: str
    ) -> None:
        """Fails if Redis is made to publish what no other replica wants: its own statistics count it."""
        bus = make_bus(own_redis.url)
        await bus.initialize()
        await held(bus, user, "a")
        before = own_redis.calls("publish")
        assert await bus.publish(envelope(user), lease="a") is Delivery.LOCAL
        assert own_redis.calls("publish") == before == 0
        assert bus.stats.published == 1

    async def test_a_user_on_another_replica_is_remote(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if a user who is elsewhere, or here and elsewhere, is not reached over the bus."""
        bus = make_bus(redis_server.url)
        await bus.initialize()
        await held(bus, "bob", "b")
        await held(bus, "carol", "a", "b")
        async with Eavesdropper(redis_server.url, bus.channel) as heard:
            assert await bus.publish(envelope("bob"), lease="a") is Delivery.REMOTE
            assert await bus.publish(envelope("carol"), lease="a") is Delivery.REMOTE
            await eventually(lambda: len(heard.payloads) == 2)

    async def test_a_user_whom_nobody_holds_is_offline(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if the answer is another, or if it is not sent: the directory may lag behind a connect."""
        bus = make_bus(redis_server.url)
        await bus.initialize()
        await held(bus, "somebody else", "a", "b")
        async with Eavesdropper(redis_server.url, bus.channel) as heard:
            assert await bus.publish(envelope("nobody"), lease="a") is Delivery.OFFLINE
            await eventually(lambda: heard.payloads)

    async def test_an_unsettled_directory_is_not_believed(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if "nobody else holds this user" is believed when it may only mean "nobody else yet"."""
        bus = make_bus(redis_server.url)
        await bus.initialize()
        await held(bus, "bob", "a", settled=False)
        async with Eavesdropper(redis_server.url, bus.channel) as heard:
            assert await bus.publish(envelope("bob"), lease="a") is Delivery.LOCAL
            await eventually(lambda: heard.payloads)
            await bus.server.client.delete(bus.server.keys.settled_at)  # lost with everything else that Redis knew
            await bus.publish(envelope("bob"), lease="a")
            await eventually(lambda: len(heard.payloads) == 2)

    async def test_disabled_it_says_so_for_debugging_and_nothing_more(
        self, make_bus: MakeBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if one replica that runs on its own on purpose complains about each message."""
        bus = make_bus(None)
        with caplog.at_level(logging.DEBUG, logger="heliograph.backends.memory.bus"):
            assert await bus.publish(envelope(), lease="a") is None
        assert [record.levelno for record in caplog.records] == [logging.DEBUG]
        assert "message-1" in caplog.text
        assert bus.stats.publish_errors == 0

    async def test_not_initialised_it_says_that_the_message_is_lost(
        self, make_bus: MakeBus, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a message vanishes without an error line, without an error, or without being counted."""
        bus = make_bus(redis_server.url)
        with pytest.raises(BusUnavailable, match="lost"):
            await bus.publish(envelope(), lease="a")
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert "message-1" in record.getMessage()
        assert "lost" in record.getMessage()
        assert bus.stats.publish_errors == 1
        assert bus.stats.published == 0

    async def test_a_redis_that_was_killed_is_an_error_at_once(
        self, make_bus: MakeBus, own_redis: RedisServer
    ) -> None:
        """Fails if a sender waits for retries while Redis is gone, or if the loss is not counted."""
        bus = make_bus(own_redis.url)
        await bus.initialize()
        own_redis.stop()
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(BusUnavailable):
                await bus.publish(envelope(), lease="a")
        assert time.monotonic() - began < 0.5
        assert bus.stats.publish_errors == 3

    async def test_a_frozen_redis_is_an_error_in_about_a_second_and_nothing_comes_twice(
        self, make_bus: MakeBus, own_redis: RedisServer
    ) -> None:
        """Fails if the time-out is missing or retried, which would deliver the message twice after the thaw."""
        bus = make_bus(own_redis.url)
        await bus.initialize()
        async with Eavesdropper(own_redis.url, bus.channel) as heard:
            own_redis.freeze()
            began = time.monotonic()
            with pytest.raises(BusUnavailable):
                await bus.publish(envelope(message="in the frost"), lease="a")
            assert 0.5 < time.monotonic() - began < 1.8
            own_redis.thaw()
            await bus.publish(envelope(message="after it"), lease="a")
            await eventually(lambda: b"after it" in b"".join(heard.payloads))
        texts = [json.loads(payload)["message"] for payload in heard.payloads]
        assert texts in (["in the frost", "after it"], ["after it"])

    async def test_a_redis_that_forgot_the_script_is_given_it_again(
        self, make_bus: MakeBus, own_redis: RedisServer
    ) -> None:
        """Fails if a SCRIPT FLUSH (or a fail-over) makes every message fail from then on."""
        bus = make_bus(own_redis.url)
        await bus.initialize()
        await bus.publish(envelope(), lease="a")
        own_redis.command("SCRIPT", "FLUSH")
        assert await bus.publish(envelope(), lease="a") is Delivery.OFFLINE

    async def test_after_a_restart_of_redis_no_message_fails_on_an_old_connection(
        self, make_bus: MakeBus, own_redis: RedisServer
    ) -> None:
        """Fails if connections that died with the old Redis are handed out again: the bus calls itself ready."""
        bus = make_bus(own_redis.url)
        bus.start_listening()
        await eventually(lambda: bus.ready)
        await asyncio.gather(*(bus.publish(envelope(), lease="a") for _ in range(20)))
        own_redis.restart()
        await eventually(lambda: bus.stats.resubscriptions and bus.ready)
        answers = await asyncio.gather(
            *(bus.publish(envelope(), lease="a") for _ in range(20)), return_exceptions=True
        )
        assert answers == [Delivery.OFFLINE] * 20

    async def test_connections_that_redis_closed_while_idle_cost_no_message(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if a pooled connection that is long dead is found out by a message: Redis' `timeout` closes them."""
        bus = make_bus(own_redis.url)
        await bus.initialize()
        await asyncio.gather(*(bus.publish(envelope(), lease="a") for _ in range(10)))
        await own_admin.redis.client_kill_filter(_type="normal")
        await eventually(lambda: _only_the_listener(own_admin))
        answers = await asyncio.gather(
            *(bus.publish(envelope(), lease="a") for _ in range(10)), return_exceptions=True
        )
        assert answers == [Delivery.OFFLINE] * 10

    async def test_many_at_once_all_arrive_once(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if more publishers at a time than the pool has connections (50) lose their messages."""
        bus = make_bus(redis_server.url)
        await bus.initialize()
        async with Eavesdropper(redis_server.url, bus.channel) as heard:
            answers = await asyncio.gather(
                *(bus.publish(envelope(message=number), lease="a") for number in range(300)), return_exceptions=True
            )
            assert [answer for answer in answers if isinstance(answer, Exception)] == []
            await eventually(lambda: len(heard.payloads) == 300)
        assert sorted(json.loads(payload)["message"] for payload in heard.payloads) == list(range(300))

    async def test_without_a_lease_it_goes_to_all(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if a replica that has no lease yet, or has lost it and taken another, cannot publish."""
        bus = make_bus(redis_server.url)
        await bus.initialize()
        async with Eavesdropper(redis_server.url, bus.channel) as heard:
            for lease in ("", "a", "b", ""):
                assert await bus.publish(envelope(message=lease), lease=lease) is Delivery.OFFLINE
            await eventually(lambda: len(heard.payloads) == 4)

    async def test_what_redis_refuses_is_an_error_that_callers_know(
        self, make_bus: MakeBus, redis_server: RedisServer
    ) -> None:
        """Fails if an error that Redis answers with comes out as redis-py's own, or breaks the next message."""
        bus = make_bus(redis_server.url)
        await bus.initialize()
        await bus.server.client.set(bus.server.keys.holders("bob"), "no hash")
        with pytest.raises(BusUnavailable) as caught:
            await bus.publish(envelope("bob"), lease="a")
        assert "WRONGTYPE" in caught.value.detail
        assert bus.stats.publish_errors == 1
        assert await bus.publish(envelope("carol"), lease="a") is Delivery.OFFLINE

    async def test_a_megabyte_goes_through(self, make_bus: MakeBus, redis_server: RedisServer) -> None:
        """Fails if large messages are cut or refused on their way."""
        got: list[object] = []
        bus = make_bus(redis_server.url)
        bus.start_listening(lambda received: got.append(content(received)))
        await eventually(lambda: bus.ready)
        text = "우주" * 170_000
        await bus.publish(envelope(message=text), lease="a")
        await eventually(lambda: got)
        assert got == [text]

    async def test_while_the_listener_is_lost_it_goes_on(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if messages are refused although Redis would take them: listening and publishing are apart."""
        monkeypatch.setattr("heliograph.cluster.pubsub_manager._backoff_s", lambda *_: 60.0)
        bus = make_bus(own_redis.url)
        bus.start_listening()
        await eventually(lambda: bus.ready)
        await own_admin.cut_listeners()
        await eventually(lambda: bus.state is BusState.LOST)
        assert await bus.publish(envelope(), lease="a") is Delivery.OFFLINE

    async def test_cancelled_anywhere_it_spoils_no_other_answer(
        self, make_bus: MakeBus, own_redis: RedisServer, own_admin: RedisAdmin
    ) -> None:
        """Fails if the answer to a publish that was cancelled is taken for the answer to the next one."""
        bus = make_bus(own_redis.url)
        await bus.initialize()
        await held(bus, "bob", "b")
        for at in itertools.count(1):
            watch = Watch(at)
            task = asyncio.create_task(watch.around(bus.publish)(envelope("bob"), lease="a"))
            task.add_done_callback(lambda _, watch=watch: watch.over())  # type: ignore[misc]
            reached = await watch.place()
            await end(task)
            assert await bus.publish(envelope("nobody"), lease="a") is Delivery.OFFLINE, watch.where
            assert await bus.publish(envelope("bob"), lease="a") is Delivery.REMOTE, watch.where
            if not reached:
                break
        assert len(await own_admin.connections()) <= 4


async def _only_the_listener(admin: RedisAdmin) -> bool:
    return len(await admin.connections()) == 1

"""What arrives: good envelopes reach the handler as they were sent, and nothing that others send ends the loop."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.errors import BadEnvelope
from heliograph.protocol.envelope import Envelope
from tests.cluster.pubsub_manager.conftest import MakeBus
from tests.support.envelopes import KOREAN, content, envelope
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

MARKER = "this comes after"

GOOD = '{"target_user_id":"bob","message":%s}'

NOT_ENVELOPES: dict[str, bytes | str] = {
    "empty": b"",
    "bad JSON": "Grüße, kein JSON",
    "cut off": '{"target_user_id":"bob","message":{"text":"hel',
    "something after it": '{"target_user_id":"bob","message":1} and more',
    "a byte order mark": b"\xef\xbb\xbf" + b'{"target_user_id":"bob","message":1}',
    "a list": '["bob", "hello"]',
    "a string": '"bob"',
    "null": "null",
    "target_user_id missing": '{"message":"hello"}',
    "message missing": '{"target_user_id":"bob"}',
    "target_user_id a number": '{"target_user_id":42,"message":"hello"}',
    "target_user_id null": '{"target_user_id":null,"message":"hello"}',
    "target_user_id empty": '{"target_user_id":"","message":"hello"}',
    "target_user_id of 300 bytes": '{"target_user_id":"%s","message":"hello"}' % ("고" * 100),
    "target_user_id with a control character": '{"target_user_id":"bo\\u0000b","message":"hello"}',
    "target_user_id with half of a surrogate pair": '{"target_user_id":"bob\\ud83d","message":"hello"}',
    "message_id a number": '{"target_user_id":"bob","message":"hello","message_id":7}',
    "invalid UTF-8 in target_user_id": b'{"target_user_id":"bo\xffb","message":"hello"}',
    "invalid UTF-8 in message": b'{"target_user_id":"bob","message":"hel\xc3lo"}',
    "half of a surrogate pair in message": GOOD % '"\\ud83d"',
    "too deep": GOOD % ("[" * 200 + "]" * 200),
    "far too deep": GOOD % ("[" * 100_000 + "]" * 100_000),
    "out of a double's range": GOOD % "1e999",
    "a number of 5,000 digits": GOOD % ("9" * 5000),
    "NaN": GOOD % "NaN",
    "oversized": b"x" * 1_000_000,
}


@dataclass
class Listening:
    """A bus that listens, what its handler got, and a foreign program that publishes."""

    bus: PubSubManager
    admin: RedisAdmin
    got: list[Envelope] = field(default_factory=list)

    async def hears(self, *payloads: bytes | str) -> list[Envelope]:
        """Publish these, one after the other; returns what the handler got of them."""
        for payload in (*payloads, json.dumps({"target_user_id": "bob", "message": MARKER})):
            await self.admin.publish(self.bus.channel, payload)
        await eventually(lambda: self.got and content(self.got[-1]) == MARKER)
        heard, self.got[:] = self.got[:-1], []
        return heard

    def fails_on(self, text: str, error: Exception) -> None:
        """Have the handler raise the error when it gets this text."""

        def handle(received: Envelope) -> None:
            if content(received) == text:
                raise error
            self.got.append(received)

        self.bus._handler = handle


@pytest.fixture
async def listening(make_bus: MakeBus, redis_server: RedisServer, admin: RedisAdmin) -> AsyncIterator[Listening]:
    bus = make_bus(redis_server.url, canary_timeout_s=5)
    listening = Listening(bus, admin)
    bus.start_listening(listening.got.append)
    await eventually(lambda: bus.ready)
    yield listening
    await bus.close()


class TestReceive:
    async def test_a_good_envelope_reaches_the_handler_with_its_text_intact(self, listening: Listening) -> None:
        """Fails if a field is lost on the way in, or if anything that is not ASCII changes."""
        payload = json.dumps(
            {
                "target_user_id": "김철수",
                "message": KOREAN,
                "message_id": "m-1",
                "sent_at": "2026-01-01T00:00:00.000Z",
                "from": "앨리스",
                "origin": "replica-2",
                "node_id": "n-2",
            },
            ensure_ascii=False,
        )
        [got] = await listening.hears(payload)
        assert content(got) == KOREAN
        assert (got.target_user_id, got.sender) == ("김철수", "앨리스")
        assert (got.message_id, got.sent_at) == ("m-1", "2026-01-01T00:00:00.000Z")
        assert (got.origin, got.node_id) == ("replica-2", "n-2")

    @pytest.mark.parametrize("message", ["안녕", None, 0, False, "", [], {"나": ["🐈"]}])
    async def test_two_fields_are_enough(self, listening: Listening, message: object) -> None:
        """Fails if a foreign program must say more than whom and what, or may not say it in any JSON."""
        [got] = await listening.hears(json.dumps({"target_user_id": "bob", "message": message}))
        assert got.target_user_id == "bob"
        assert content(got) == message
        assert got.message_id is got.sent_at is got.sender is got.origin is got.node_id is None

    async def test_fields_of_a_later_version_are_ignored(self, listening: Listening) -> None:
        """Fails if replicas of two versions cannot share a bus during a deploy."""
        [got] = await listening.hears('{"v":9,"target_user_id":"bob","hop":{"a":[1]},"message":1}')
        assert content(got) == 1

    async def test_what_another_manager_publishes_arrives_as_it_was(
        self, listening: Listening, make_bus: MakeBus, redis_server: RedisServer
    ) -> None:
        """Fails if writer and reader do not agree, or if a replica's own messages are kept from its handler."""
        other = make_bus(redis_server.url)
        await other.initialize()
        sent = envelope("김철수", KOREAN, sender="a", origin="r", node_id=other.node_id, sent_at="now")
        await other.publish(sent, lease="x")
        await listening.bus.publish(sent, lease="x")
        assert await listening.hears() == [sent, sent]

    async def test_one_message_of_the_bus_may_hold_many_envelopes(self, listening: Listening) -> None:
        """Fails if what one replica has said in a turn is not taken apart, counted, and handed over in order."""
        heard = await listening.hears("\n".join(GOOD % number for number in range(5)), GOOD % 5)
        assert [content(got) for got in heard] == [*range(6)]
        assert listening.bus.stats.received == 7  # and what came after them

    async def test_of_many_envelopes_the_bad_one_is_named(
        self, listening: Listening, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if one that no client can read costs the others anything, or has another one logged in its place."""
        listening.fails_on("unreadable", BadEnvelope("the test says so"))
        heard = await listening.hears("\n".join(GOOD % text for text in ('"secret"', '"unreadable"', '"two"')))
        assert [content(got) for got in heard] == ["secret", "two"]
        assert listening.bus.stats.malformed == 1
        [record] = [record for record in caplog.records if record.name == "heliograph.cluster.pubsub_manager"]
        assert "unreadable" in record.getMessage()
        assert "secret" not in caplog.text

    @pytest.mark.parametrize("payload", NOT_ENVELOPES.values(), ids=NOT_ENVELOPES.keys())
    async def test_what_is_no_envelope_is_logged_counted_and_skipped(
        self, listening: Listening, payload: bytes | str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a bad payload reaches the handler, ends the loop, goes uncounted, or is logged in full."""
        assert await listening.hears(payload) == []
        [record] = [record for record in caplog.records if record.name == "heliograph.cluster.pubsub_manager"]
        start = payload.encode()[:30] if isinstance(payload, str) else payload[:30]
        assert record.levelno == logging.WARNING
        assert repr(start)[2:-1] in record.getMessage()
        assert len(record.getMessage()) < 1_000
        assert listening.bus.stats.malformed == 1
        assert listening.bus.stats.received == 1  # what came after it

    async def test_every_kind_of_nonsense_in_a_row_costs_no_good_message(self, listening: Listening) -> None:
        """Fails if bad payloads use something up: the connection must be the same afterwards."""
        good = GOOD % '"between"'
        payloads = [part for bad in NOT_ENVELOPES.values() for part in (bad, good)]
        assert [content(got) for got in await listening.hears(*payloads)] == ["between"] * len(NOT_ENVELOPES)
        assert listening.bus.stats.malformed == len(NOT_ENVELOPES)
        assert listening.bus.stats.connection_losses == 0

    async def test_a_good_message_of_a_megabyte_arrives_whole(self, listening: Listening) -> None:
        """Fails if what does not come in one read is put together wrongly."""
        text = "고양이" * 120_000
        [got] = await listening.hears(json.dumps({"target_user_id": "bob", "message": text}, ensure_ascii=False))
        assert content(got) == text

    async def test_a_handler_that_raises_is_logged_counted_and_called_again(
        self, listening: Listening, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if one message that cannot be delivered keeps the following ones from being delivered."""
        listening.fails_on("poison", KeyError("this handler is broken"))
        heard = await listening.hears(GOOD % '"one"', GOOD % '"poison"', GOOD % '"two"')
        assert [content(got) for got in heard] == ["one", "two"]
        [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert '{"target_user_id":"bob","message":"poison"}' in record.getMessage()
        assert record.exc_info is not None
        assert "this handler is broken" in str(record.exc_info[1])
        assert listening.bus.stats.handler_errors == 1
        assert listening.bus.stats.received == 4

    async def test_what_clients_say_is_not_logged_even_then(
        self, listening: Listening, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a message that a client has sent by another replica ends up in the log."""
        listening.fails_on("my secret", KeyError("this handler is broken"))
        await listening.hears(
            '{"message":"my secret","target_user_id":"bob","message_id":"m1","node_id":"another"}', GOOD % '"two"'
        )
        [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.getMessage() == "delivering message m1 from the bus failed with an unexpected error; skipped"
        assert record.__dict__["channel"] == "#bob"
        assert "my secret" not in caplog.text

    async def test_without_a_handler_envelopes_are_counted_and_dropped(
        self, listening: Listening, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a manager that only publishes is upset by what others publish."""
        listening.bus._handler = None
        await listening.admin.publish(listening.bus.channel, GOOD % "1")
        await eventually(lambda: listening.bus.stats.received == 1)
        assert caplog.records == []

    async def test_a_thousand_messages_keep_the_order_of_each_publisher(
        self, listening: Listening, redis_server: RedisServer
    ) -> None:
        """Fails if messages overtake each other, are lost or come twice while several programs publish at once."""

        async def publish(name: str) -> None:
            async with RedisAdmin(redis_server.url) as publisher:
                for number in range(250):
                    await publisher.publish(listening.bus.channel, GOOD % json.dumps([name, number]))

        await asyncio.gather(*(publish(name) for name in "abcd"))
        heard = [content(got) for got in await listening.hears()]
        assert len(heard) == 1000
        for name in "abcd":
            assert [number for who, number in heard if who == name] == list(range(250))

    async def test_a_burst_in_one_write_is_handed_over_whole_and_in_order(self, listening: Listening) -> None:
        """Fails if what one read brings beyond the first message is left behind."""
        pipeline = listening.admin.redis.pipeline(transaction=False)
        for number in range(2_000):
            pipeline.publish(listening.bus.channel, GOOD % number)
        await pipeline.execute()
        assert [content(got) for got in await listening.hears()] == list(range(2_000))

    async def test_what_comes_on_the_own_channel_is_not_handed_on(self, listening: Listening) -> None:
        """Fails if the canary, or anything else on the channel of this replica alone, is taken for a message."""
        for payload in ("", "token", GOOD % '"on the own channel"'):
            await listening.admin.publish(listening.bus.own_channel, payload)
        assert await listening.hears() == []
        assert listening.bus.stats.malformed == 0
        assert listening.bus.canary_age_s < 5

    async def test_confirmations_are_not_handed_on_and_the_first_is_no_resubscription(
        self, listening: Listening
    ) -> None:
        """Fails if a subscription's confirmation is taken for a message, or starts a gap fill at every boot."""
        assert await listening.hears() == []
        assert listening.bus.stats.resubscriptions == 0
        assert listening.bus.stats.malformed == 0

    async def test_other_channels_are_none_of_its_business(self, listening: Listening) -> None:
        """Fails if two installations on one Redis hear each other."""
        await listening.admin.publish(f"{listening.bus.channel}:other", GOOD % '"not for us"')
        await listening.admin.publish(f"{listening.bus.channel}@another-node", GOOD % '"not for us"')
        assert await listening.hears() == []

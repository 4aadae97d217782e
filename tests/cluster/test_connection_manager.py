"""The delivery policy, over real Redis and several replicas in this process (the cases of requirement S2.7)."""

import asyncio
import itertools
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from heliograph.errors import BadUserId, BusUnavailable, ConnectionLimit, ErrorCode
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Delivery, Pong
from tests.support.members import Device, Member, Members
from tests.support.redis_server import RedisServer
from tests.support.settling import believe_the_directory
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from heliograph.cluster.publish_result import PublishResult

QUIET = {"canary_interval_s": 60, "canary_timeout_s": 120}  # no canary while PUBLISH is counted
IDS = ["밥", "👩‍👩‍👧‍👦", "مرحبا", "a b", "Ünïcødé", "user:1", "#hash", "{braces}", "%41", "'\"\\"]
TEXTS = [
    "안녕하세요, 우주여행고양이",
    "🚀👩🏽‍🚀",
    "שלום עולם",
    "a\u202eb",
    "line\u2028separator",
    "\x00\x7f",
    'quo"te\\',
]


@pytest.fixture(params=["shared", "directed"])
def routing(request: pytest.FixtureRequest) -> str:
    """Messages to users on the bus channel of all replicas, or to the inboxes of those that hold the user."""
    return str(request.param)


@pytest.fixture
async def members(redis_server: RedisServer, namespace: str, routing: str) -> AsyncIterator[Members]:
    async with Members(redis_server.url, namespace, routing) as members:
        yield members


@pytest.fixture
async def own_members(own_redis: RedisServer, namespace: str, routing: str) -> AsyncIterator[Members]:
    """Replicas whose Redis is this test's own, to be frozen, killed or counted on."""
    async with Members(own_redis.url, namespace, routing) as members:
        yield members


async def foreign(member: Member, user: str, message: Any, **fields: Any) -> None:
    """Publish as a program that is no replica does."""
    envelope = json.dumps({"target_user_id": user, "message": message, **fields})
    await member.redis.client.publish(member.redis.keys.bus_channel, envelope)


async def all_arrived(member: Member, *devices: Device) -> None:
    """Return when whatever was published before has been handled everywhere: it would have come before this."""
    for user in {device.connection.user for device in devices}:
        await foreign(member, user, "the end")
    await eventually(lambda: all(device.got[-1:] == ["the end"] for device in devices))
    for device in devices:
        assert device.got.count("the end") == 1
        frames = device.sink.writes[-1]
        del frames[-1]


class TestRouting:
    """`send_message`: local first, the bus for the rest."""

    async def test_a_user_on_this_replica_gets_the_message(self, members: Members) -> None:
        """Fails if local delivery does not happen, or the sender is not told that it was local."""
        one = await members.start()
        bob = await one.connect("bob")
        result = await one.send("bob", {"text": "hello"}, sender="alice")
        await eventually(lambda: bob.got)
        assert result.delivery is Delivery.LOCAL
        (message,) = bob.of("message")
        assert message.pop("sent_at").endswith("Z")
        assert message == {
            "type": "message",
            "channel": "#bob",
            "data": {"text": "hello"},
            "message_id": result.message_id,
            "from": "alice",
            "origin": "replica-1",
        }

    async def test_every_device_on_this_replica_gets_it_once(self, members: Members) -> None:
        """Fails if one of a user's connections is left out, or another user's is not."""
        one = await members.start()
        phone, laptop, other = [await one.connect(user) for user in ("bob", "bob", "bobby")]
        await one.send("bob", "hi")
        await all_arrived(one, phone, laptop, other)
        assert (phone.got, laptop.got, other.got) == (["hi"], ["hi"], [])

    @pytest.mark.usefixtures("short_timeout")
    async def test_local_comes_first_while_redis_is_frozen(
        self, own_members: Members, own_redis: RedisServer
    ) -> None:
        """Fails if local delivery waits for the answer of Redis."""
        one = await own_members.start()
        bob = await one.connect("bob")
        own_redis.freeze()
        sending = asyncio.create_task(one.send("bob", "at once"))
        await eventually(lambda: bob.got == ["at once"], within_s=0.5)
        assert not sending.done(), "Redis cannot have answered: it is frozen"
        assert (await sending).delivery is Delivery.LOCAL, "a local delivery is no failure because Redis is gone"
        own_redis.thaw()

    async def test_local_works_while_redis_is_dead(self, own_members: Members, own_redis: RedisServer) -> None:
        """Fails if a message to a user of this replica needs Redis."""
        one = await own_members.start()
        bob = await one.connect("bob")
        own_redis.stop()
        assert (await one.send("bob", "still here")).delivery is Delivery.LOCAL
        await eventually(lambda: bob.got == ["still here"])

    async def test_a_user_elsewhere_is_reached_through_the_bus(self, members: Members) -> None:
        """Fails if the message is not published, or the result does not say that another replica has the user."""
        one, two = await members.several(2)
        bob = await two.connect("bob")
        result = await one.send("bob", "over there", sender="alice")
        await eventually(lambda: bob.got)
        assert result.delivery is Delivery.REMOTE
        (message,) = bob.of("message")
        assert (message["from"], message["origin"]) == ("alice", "replica-1")
        assert message["message_id"] == result.message_id

    async def test_a_user_on_both_replicas_gets_it_on_both(self, members: Members) -> None:
        """Fails if local delivery keeps the message from the bus (or the other way round)."""
        one, two = await members.several(2)
        here, there = await one.connect("bob"), await two.connect("bob")
        assert (await one.send("bob", "both")).delivery is Delivery.REMOTE
        await all_arrived(one, here, there)
        assert (here.got, there.got) == (["both"], ["both"])

    async def test_a_sole_holder_costs_no_publish(
        self, own_members: Members, own_redis: RedisServer, namespace: str
    ) -> None:
        """Fails if the relay script publishes for a user whom the asking replica holds alone."""
        one, two = await own_members.several(2, bus=QUIET)
        bob = await one.connect("bob")
        await two.connect("carol")
        believe_the_directory(own_redis, namespace)
        before = own_redis.calls("publish")
        for number in range(20):
            assert (await one.send("bob", number)).delivery is Delivery.LOCAL
        assert own_redis.calls("publish") == before
        assert bob.got == list(range(20))

    async def test_a_holder_elsewhere_costs_one_publish(
        self, own_members: Members, own_redis: RedisServer, namespace: str
    ) -> None:
        """Fails if a message is published more than once, or not at all (the counter of the test above works)."""
        one, two = await own_members.several(2, bus=QUIET)
        await one.connect("bob")
        there = await two.connect("bob")
        believe_the_directory(own_redis, namespace)
        before = own_redis.calls("publish")
        for number in range(5):
            await one.send("bob", number)
        assert own_redis.calls("publish") == before + 5
        await eventually(lambda: there.got == list(range(5)))

    async def test_a_user_who_is_nowhere_is_offline(self, members: Members) -> None:
        """Fails if the sender is told that somebody has the message."""
        one, two = await members.several(2)
        await two.connect("carol")
        assert (await one.send("nobody", "?")).delivery is Delivery.OFFLINE

    async def test_a_message_to_oneself_comes_back_on_every_device(self, members: Members) -> None:
        """Fails if the sender's own connections are left out, here or elsewhere."""
        one, two = await members.several(2)
        laptop, phone = await one.connect("alice"), await two.connect("alice")
        assert (await one.send("alice", "note", sender="alice")).delivery is Delivery.REMOTE
        await all_arrived(one, laptop, phone)
        assert (laptop.got, phone.got) == (["note"], ["note"])

    async def test_without_redis_there_is_only_this_replica(self, members: Members) -> None:
        """Fails if a replica without a bus raises, or claims to reach others."""
        alone = await members.start(redis_url=None)
        bob = await alone.connect("bob")
        assert (await alone.send("bob", 1)).delivery is Delivery.LOCAL
        assert (await alone.send("nobody", 1)).delivery is Delivery.OFFLINE
        await eventually(lambda: bob.got == [1])


class TestBusReceive:
    """What comes in over the bus goes to the connections here, and nowhere else."""

    async def test_a_foreign_message_reaches_every_device_once(self, members: Members) -> None:
        """Fails if a bare `PUBLISH events {"target_user_id","message"}` misses a device or reaches one twice."""
        one, two, three = await members.several(3)
        devices = [await member.connect("bob") for member in (one, one, two, three)]
        await foreign(three, "bob", {"job": 7})
        await all_arrived(one, *devices)
        assert [device.got for device in devices] == [[{"job": 7}]] * 4
        (message,) = devices[0].of("message")
        assert re.fullmatch(r"[0-9a-f]{32}", message["message_id"])
        assert message["sent_at"].endswith("Z")
        assert "from" not in message
        assert "origin" not in message

    async def test_what_a_foreign_process_names_is_kept(self, members: Members) -> None:
        """Fails if a replica invents an id, a time or a sender although the publisher gave one."""
        one = await members.start()
        bob = await one.connect("bob")
        await foreign(one, "bob", 1, message_id="job-1", sent_at="2026-01-01T00:00:00Z", **{"from": "ci"})
        await eventually(lambda: bob.got)
        (message,) = bob.of("message")
        assert (message["message_id"], message["sent_at"]) == ("job-1", "2026-01-01T00:00:00Z")
        assert message["from"] == "ci"

    async def test_the_own_envelope_is_not_delivered_again(self, members: Members, routing: str) -> None:
        """Fails if RemoteDelivery does not know its own node id: bob's device here would get the message twice."""
        one, two = await members.several(2)
        here, there = await one.connect("bob"), await two.connect("bob")
        received = one.replica.bus.stats.received
        await one.send("bob", "once")
        await all_arrived(two, here, there)
        came_back = 1 if routing == "shared" else 0
        assert one.replica.bus.stats.received == received + came_back + 1, "the last of them is 'the end'"
        assert (here.got, there.got) == (["once"], ["once"])

    async def test_via_pubsub_never_publishes(
        self, own_members: Members, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if the via_pubsub guard is removed: Redis counts a PUBLISH, and the bus is called."""
        one, two = await own_members.several(2, bus=QUIET)
        here, there = await one.connect("bob"), await two.connect("bob")
        called: list[object] = []
        monkeypatch.setattr(one.replica.bus, "publish", lambda *arguments, **_: called.append(arguments))
        before = own_redis.calls("publish")
        receipts = [await one.send(user, "from the bus", via_pubsub=True) for user in ("bob", "nobody")]
        assert [result.delivery for result in receipts] == [Delivery.LOCAL, Delivery.OFFLINE]
        assert called == []
        assert own_redis.calls("publish") == before
        await eventually(lambda: here.got == ["from the bus"])
        assert there.got == []

    async def test_a_message_for_nobody_here_is_dropped(self, members: Members) -> None:
        """Fails if an envelope for a user of another replica does anything here."""
        one, two = await members.several(2)
        alice, bob = await one.connect("alice"), await two.connect("bob")
        received = one.replica.bus.stats.received
        await foreign(one, "bob", 1)
        await eventually(lambda: bob.got == [1])
        await eventually(lambda: one.replica.bus.stats.received == received + 1)
        assert alice.got == []
        assert one.replica.telemetry.messages_out == 0

    async def test_bad_envelopes_between_good_ones_are_skipped(self, members: Members) -> None:
        """Fails if a foreign process can stop, or disturb, what comes after its nonsense."""
        one = await members.start()
        bob = await one.connect("bob")
        bus = one.replica.bus
        bad = [
            b"",
            b"nonsense",
            b"[]",
            b'{"target_user_id":"bob"}',
            b'{"message":1}',
            b'{"target_user_id":"","message":1}',
        ]
        bad += [
            b'{"target_user_id":7,"message":1}',
            b"\xff",
            b'{"target_user_id":"bob","message":NaN}',
            b"[" * 100_000,
        ]
        bad += [
            b'{"target_user_id":"bob","message":"\\ud800"}',
            b'{"target_user_id":"bob","message":' + b"[" * 200 + b"]" * 200 + b"}",
        ]
        bad += [  # whoever calls itself a replica can break no reader either
            b'{"target_user_id":"bob","message":"\xff","node_id":"n1"}',
            b'{"target_user_id":"bob","message":' + b"[" * 200 + b"]" * 200 + b',"node_id":"n1"}',
        ]
        for payload in bad:
            await one.redis.client.publish(one.redis.keys.bus_channel, payload)
        await foreign(one, "bob", "fine")
        await eventually(lambda: bob.got == ["fine"])
        assert bus.stats.malformed == len(bad)

    async def test_handle_pubsub_message_tells_how_many_took_it(self, members: Members) -> None:
        """Fails if the bus's handler is not the guarded path, or does not count."""
        one = await members.start()
        devices = [await one.connect("bob") for _ in range(3)]
        assert one.bus._handler == one.replica.manager.handle_pubsub_message
        seen: list[int] = []
        handle = one.replica.manager.handle_pubsub_message
        one.bus._handler = lambda envelope: seen.append(handle(envelope))
        await foreign(one, "bob", 1)
        await foreign(one, "nobody", 1)
        await eventually(lambda: seen == [3, 0])
        await eventually(lambda: all(device.got == [1] for device in devices))


class TestConnections:
    """Who is registered, where, and how many."""

    async def test_connect_enters_the_user_here_and_in_the_directory(self, members: Members) -> None:
        """Fails if connect returns before other replicas can know where the user is."""
        one, two = await members.several(2)
        await one.connect("bob")
        await one.connect("bob")
        assert await two.holders("bob") == {one.replica.directory.lease: 2}
        assert one.replica.hub.count("bob") == 2
        assert two.replica.hub.count("bob") == 0

    async def test_disconnect_forgets_at_once_and_may_be_repeated(self, members: Members) -> None:
        """Fails if a device that left is still written to, is counted, or takes the user's other device with it."""
        one, two = await members.several(2)
        phone, laptop = await one.connect("bob"), await one.connect("bob")
        one.disconnect(phone)
        one.disconnect(phone)
        assert one.replica.hub.count("bob") == 1
        await eventually(lambda: _equals(two.holders("bob"), {one.replica.directory.lease: 1}))
        await two.send("bob", "who is left?")
        await all_arrived(one, laptop)
        assert (phone.got, laptop.got) == ([], ["who is left?"])
        one.disconnect(laptop)
        await eventually(lambda: _equals(two.holders("bob"), {}))
        assert (await two.send("bob", "?")).delivery is Delivery.OFFLINE

    async def test_the_limit_per_user_counts_all_replicas(self, members: Members) -> None:
        """Fails if each replica counts its own connections only."""
        one, two = await members.several(2, limits={"connections_per_user": 2})
        await one.connect("bob")
        await two.connect("bob")
        for member in (one, two):
            with pytest.raises(ConnectionLimit, match="2 connections"):
                await member.connect("bob")
        await one.connect("carol")

    async def test_the_limit_per_replica(self, members: Members) -> None:
        """Fails if a replica takes more connections than it may; the other one still does."""
        one, two = await members.several(2, limits={"connections": 2})
        await one.connect("a")
        await one.connect("b")
        with pytest.raises(ConnectionLimit, match="this replica holds the 2"):
            await one.connect("c")
        await two.connect("c")

    async def test_a_refused_connection_is_not_counted(self, members: Members) -> None:
        """Fails if a refusal leaves an entry behind: the user would be locked out, or be reached on a dead socket."""
        one, two = await members.several(2, limits={"connections_per_user": 1})
        bob = await one.connect("bob")
        for _ in range(3):
            with pytest.raises(ConnectionLimit):
                await two.connect("bob")
        assert two.replica.hub.connections == 0
        await eventually(lambda: _equals(one.holders("bob"), {one.replica.directory.lease: 1}))
        one.disconnect(bob)
        await eventually(lambda: _equals(one.holders("bob"), {}))
        await two.connect("bob")
        assert await one.holders("bob") == {two.replica.directory.lease: 1}

    async def test_of_too_many_at_once_as_many_get_in_as_may(self, members: Members) -> None:
        """Fails if connections that arrive together are all refused because together they are too many."""
        one = await members.start(limits={"connections_per_user": 3})
        outcomes = await asyncio.gather(*(one.connect("bob") for _ in range(5)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, ConnectionLimit)]
        assert len(refused) == 2
        assert one.replica.hub.count("bob") == 3

    async def test_zero_means_no_limit_per_user(self, members: Members) -> None:
        """Fails if 0 refuses everybody."""
        one = await members.start(limits={"connections_per_user": 0})
        for _ in range(30):
            await one.connect("bob")
        assert one.replica.hub.count("bob") == 30

    async def test_a_connect_that_is_cancelled_leaves_nothing(
        self, own_members: Members, own_redis: RedisServer
    ) -> None:
        """Fails if a client that leaves while Redis is slow stays registered."""
        one = await own_members.start()
        own_redis.freeze()
        connecting = asyncio.create_task(one.connect("bob"))
        await eventually(lambda: one.replica.hub.count("bob") == 1)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert one.replica.hub.connections == 0
        own_redis.thaw()
        await eventually(lambda: _equals(one.holders("bob"), {}))

    async def test_connecting_works_without_redis_and_is_entered_when_it_is_back(
        self, own_members: Members, own_redis: RedisServer
    ) -> None:
        """Fails if clients cannot connect while Redis is away, or other replicas never learn of them."""
        own_redis.stop()
        one = await own_members.start(ready=False)
        bob = await one.connect("bob")
        assert (await one.send("bob", "local")).delivery is Delivery.LOCAL
        await eventually(lambda: bob.got == ["local"])
        own_redis.start()
        two = await own_members.start("replica-2")
        await eventually(lambda: one.replica.node.ready)
        await eventually(lambda: _equals(two.holders("bob"), {one.replica.directory.lease: 1}))
        assert (await two.send("bob", "remote")).delivery is Delivery.REMOTE
        await eventually(lambda: bob.got == ["local", "remote"])


class TestErrors:
    """What fails fails for one, says so, and never goes round in circles."""

    async def test_a_failed_local_send_drops_that_socket_alone(
        self, own_members: Members, own_redis: RedisServer, namespace: str
    ) -> None:
        """Fails if a broken socket costs the others their message, stays open, or its message goes to the bus."""
        one = await own_members.start(bus=QUIET)
        first, last = await one.connect("bob"), await one.connect("bob")
        broken = await one.connect("bob")
        believe_the_directory(own_redis, namespace)
        await eventually(lambda: broken.of("connected"))
        broken.sink.fails = True
        before = own_redis.calls("publish")
        await one.send("bob", "to all")
        await eventually(lambda: first.got == last.got == ["to all"])
        assert broken.sink.closed == CloseCode.INTERNAL_ERROR
        assert first.sink.closed is last.sink.closed is None
        await one.send("bob", "again")
        await eventually(lambda: first.got == last.got == ["to all", "again"])
        assert own_redis.calls("publish") == before

    async def test_a_failed_send_of_a_bus_message_drops_that_socket_alone(self, members: Members) -> None:
        """Fails if a broken socket hurts the bus's handler or the user's other devices."""
        one, two = await members.several(2)
        good, broken = await one.connect("bob"), await one.connect("bob")
        await eventually(lambda: broken.of("connected"))
        broken.sink.fails = True
        published = one.replica.bus.stats.published
        assert (await two.send("bob", "hi")).delivery is Delivery.REMOTE
        await eventually(lambda: good.got == ["hi"])
        assert broken.sink.closed == CloseCode.INTERNAL_ERROR
        assert one.replica.bus.stats.handler_errors == 0
        assert one.replica.bus.stats.published == published

    async def test_a_slow_connection_is_closed_and_holds_nobody(self, members: Members) -> None:
        """Fails if a peer that does not read is kept for ever, or costs the user's other devices a message."""
        one = await members.start()
        slow = await one.connect("bob", outbox_bytes=1000)
        fast = await one.connect("bob")
        await eventually(lambda: slow.of("connected"))
        slow.outbox.pause()
        for number in range(20):
            await one.send("bob", [number, "x" * 100])
        assert slow.sink.closed == CloseCode.SLOW
        assert one.replica.hub.count("bob") == 1
        assert [number for number, _ in fast.got] == list(range(20))
        assert slow.got == []
        assert one.replica.telemetry.slow_closes == 1

    async def test_telling_a_slow_connection_something_closes_it(self, members: Members) -> None:
        """Fails if answers (pongs, acks, errors) may pile up where messages may not."""
        one = await members.start()
        slow = await one.connect("bob", outbox_bytes=1000)
        await eventually(lambda: slow.of("connected"))
        slow.outbox.pause()
        for _ in range(100):
            one.replica.manager.send_event(slow.connection, Pong())
        assert slow.sink.closed == CloseCode.SLOW
        assert one.replica.hub.connections == 0

    async def test_send_error_says_what_when_and_to_which_request(self, members: Members) -> None:
        """Fails if the timestamp is not ISO 8601 in UTC, or the request's id is lost (or invented)."""
        one = await members.start()
        bob, other = await one.connect("bob"), await one.connect("bob")
        for request_id in ("a-1", 0, None):
            one.replica.manager.send_error(bob.connection, ErrorCode.BAD_REQUEST, "잘못", request_id)
        await eventually(lambda: len(bob.of("error")) == 3)
        errors = bob.of("error")
        assert [error.get("id", "none") for error in errors] == ["a-1", 0, "none"]
        for error in errors:
            assert (error["code"], error["message"]) == ("bad_request", "잘못")
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", error["timestamp"])
        assert other.of("error") == []

    async def test_a_remote_send_without_redis_is_an_error_and_heals(
        self, own_members: Members, own_redis: RedisServer
    ) -> None:
        """Fails if a message that reached nobody is acknowledged, or if the replica needs a restart to heal."""
        one, two = await own_members.several(2)
        bob = await two.connect("bob")
        own_redis.stop()
        with pytest.raises(BusUnavailable) as raised:
            await one.send("bob", "lost")
        assert raised.value.code is ErrorCode.UNAVAILABLE
        own_redis.start()
        await eventually(lambda: one.replica.node.ready and two.replica.node.ready)
        await eventually(lambda: _delivered(one.send("bob", "back"), Delivery.REMOTE))
        await eventually(lambda: "back" in bob.got)
        assert "lost" not in bob.got

    async def test_a_send_before_the_bus_was_ever_there_is_an_error(
        self, own_members: Members, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a message to a user elsewhere vanishes quietly while the bus is not initialised."""
        own_redis.stop()
        one = await own_members.start(ready=False)
        with pytest.raises(BusUnavailable), caplog.at_level(logging.ERROR):
            await one.send("bob", 1)
        assert one.replica.bus.stats.publish_errors == 1

    @pytest.mark.parametrize("user", ["", "x" * 256, "안" * 86, "\ud800", "a\x00b", "a\nb", "\x7f", "\x85"])
    async def test_a_bad_user_id_is_refused_before_anything_happens(self, members: Members, user: str) -> None:
        """Fails if an id that cannot be one reaches Redis, a log line or the hub, by either path."""
        one = await members.start(redis_url=None)
        for via_pubsub in (False, True):
            with pytest.raises(BadUserId):
                await one.send(user, 1, via_pubsub=via_pubsub)


class TestCrossNode:
    """Three replicas in one process."""

    async def test_each_socket_gets_it_once_whoever_holds_the_user_and_whoever_sends(self, members: Members) -> None:
        """Every set of holders of three replicas, every sending replica: fails if one is missed or reached twice."""
        cluster = await members.several(3)
        cases = []
        holder_sets = itertools.chain.from_iterable(itertools.combinations(cluster, count) for count in (1, 2, 3))
        for number, (holders, sender) in enumerate(itertools.product(holder_sets, cluster)):
            user = f"user-{number}"
            devices = await asyncio.gather(*(holder.connect(user) for holder in holders))
            cases.append((holders, sender, user, devices))
        assert len(cases) == 21
        for holders, sender, user, _ in cases:
            result = await sender.send(user, user)
            sole = holders == (sender,)
            assert result.delivery is (Delivery.LOCAL if sole else Delivery.REMOTE)
        for *_, user, devices in cases:
            await all_arrived(cluster[0], *devices)
            assert [device.got for device in devices] == [[user]] * len(devices)

    async def test_order_is_kept_between_two_replicas_in_both_directions(self, members: Members) -> None:
        """Fails if messages of one sender overtake each other on the way through the bus."""
        one, two = await members.several(2)
        alice, bob = await one.connect("alice"), await two.connect("bob")

        async def talk(member: Member, to: str) -> None:
            for number in range(50):
                await member.send(to, number)

        await asyncio.gather(talk(one, "bob"), talk(two, "alice"))
        await all_arrived(one, alice, bob)
        assert alice.got == bob.got == list(range(50))

    async def test_who_holds_neither_side_hears_of_it_only_where_all_do(self, members: Members, routing: str) -> None:
        """Fails if directed messages cost a bystander anything, or if one is missing where it should be."""
        one, two, three = [await members.start(f"replica-{n}") for n in (1, 2, 3)]
        bob = await two.connect("bob")
        await three.connect("carol")
        for number in range(20):
            assert (await one.send("bob", number)).delivery is Delivery.REMOTE
            assert (await one.replica.manager.publish("#bob", number)).delivery is Delivery.REMOTE
        await eventually(lambda: bob.got == list(range(20)))
        heard = three.replica.bus.stats.received
        assert heard == (0 if routing == "directed" else 40)

    async def test_two_leases_of_one_replica_bring_a_message_once(self, members: Members) -> None:
        """Fails if a replica whose lease was replaced gets what is directed to it under both."""
        one, two = await members.start("replica-1"), await members.start("replica-2")
        bob = await two.connect("bob")
        keys = two.redis.keys
        await two.redis.client.hset(keys.holders("bob"), f"{two.replica.bus.node_id}.7", 1)
        await one.send("bob", "once")
        await all_arrived(one, bob)
        assert bob.got == ["once"]

    async def test_a_user_who_moves_is_found_where_they_are_now(self, members: Members) -> None:
        """Fails if an entry of the replica that the user left, or the missing one of the new, misleads the sender."""
        one, two, three = await members.several(3)
        before = await two.connect("bob")
        two.disconnect(before)
        after = await three.connect("bob")
        assert (await one.send("bob", "there?")).delivery is Delivery.REMOTE
        await eventually(lambda: after.got == ["there?"])
        assert before.got == []
        await eventually(lambda: _equals(one.holders("bob"), {three.replica.directory.lease: 1}))

    async def test_a_replica_that_leaves_takes_its_users_with_it(self, members: Members) -> None:
        """Fails if a stopped replica's users still count as held somewhere."""
        one, two = await members.several(2)
        await two.connect("bob")
        await two.replica.node.stop()
        assert (await one.send("bob", "?")).delivery is Delivery.OFFLINE

    async def test_two_clusters_on_one_redis_do_not_meet(self, redis_server: RedisServer, members: Members) -> None:
        """Fails if a key or a bus channel does not carry the installation's prefix."""
        here = await members.start()
        async with Members(redis_server.url, "another") as others:
            there = await others.start()
            bob, same_name = await here.connect("bob"), await there.connect("bob")
            assert (await here.send("bob", "ours")).delivery is Delivery.LOCAL
            await all_arrived(here, bob)
            await all_arrived(there, same_name)
            assert (bob.got, same_name.got) == (["ours"], [])

    async def test_a_restarted_redis_is_healed_in_both_directions(
        self, own_members: Members, own_redis: RedisServer
    ) -> None:
        """Fails if replicas do not subscribe again, or do not enter their users in the emptied directory."""
        one, two = await own_members.several(2)
        alice, bob = await one.connect("alice"), await two.connect("bob")
        own_redis.restart()
        await eventually(lambda: _delivered(one.send("bob", "to bob"), Delivery.REMOTE), within_s=10)
        await eventually(lambda: _delivered(two.send("alice", "to alice"), Delivery.REMOTE), within_s=10)
        await eventually(lambda: "to bob" in bob.got and "to alice" in alice.got)


class TestEdges:
    """Odd names, odd moments."""

    async def test_any_script_passes_unchanged(self, members: Members) -> None:
        """Korean, emoji, right-to-left: fails if an id or a text is changed, or finds somebody else."""
        one, two = await members.several(2)
        devices = await asyncio.gather(*(two.connect(user) for user in IDS))
        for user in IDS:
            for text in TEXTS:
                result = await one.send(user, {user: text}, sender=user)
                assert result.delivery is Delivery.REMOTE
        await all_arrived(one, *devices)
        for user, device in zip(IDS, devices, strict=True):
            assert device.got == [{user: text} for text in TEXTS]
            assert {(frame["channel"], frame["from"]) for frame in device.of("message")} == {(f"#{user}", user)}

    async def test_messages_before_the_greeting_wait_behind_it(self, members: Members) -> None:
        """Fails if a client is sent a message before it is told that it is connected, or misses it."""
        one, two = await members.several(2)
        device = Device(one, "bob")
        device.outbox.hold()
        await one.replica.manager.connect(device.connection)
        await one.send("bob", "local")
        await two.send("bob", "remote")
        witness = await one.connect("witness")
        await all_arrived(two, witness)
        assert device.sink.writes == []
        device.greet()
        await eventually(lambda: len(device.sink.frames) == 3)
        assert [frame["type"] for frame in device.sink.frames] == ["connected", "message", "message"]
        assert device.got == ["local", "remote"]

    async def test_a_refused_connection_gets_no_message(self, members: Members) -> None:
        """Fails if what was held for a connection is written to it although it was refused and never greeted."""
        one = await members.start(limits={"connections_per_user": 1})
        bob = await one.connect("bob")
        refused = Device(one, "bob")
        refused.outbox.hold()
        connecting = asyncio.create_task(one.replica.manager.connect(refused.connection))
        sending = asyncio.create_task(one.send("bob", "meanwhile"))  # while the directory is asked
        with pytest.raises(ConnectionLimit):
            await connecting
        refused.connection.close(CloseCode.CONNECTION_LIMIT, "too many")
        await sending
        await eventually(lambda: bob.got == ["meanwhile"])
        assert refused.sink.frames == []
        assert refused.sink.closed == CloseCode.CONNECTION_LIMIT

    async def test_a_user_who_has_just_left_is_offline(self, members: Members) -> None:
        """Fails if "local" is said because the directory has not heard yet that the last connection has gone."""
        one = await members.start()
        bob = await one.connect("bob")
        one.replica.hub.remove(bob.connection)  # as `disconnect` does; the directory learns of it a moment later
        assert (await one.send("bob", "hello?")).delivery is Delivery.OFFLINE

    async def test_a_connection_that_is_closed_takes_nothing(self, members: Members) -> None:
        """Fails if a message counts as delivered because it was given to a connection that was closed before."""
        one = await members.start()
        bob = await one.connect("bob")
        bob.connection.close(CloseCode.EXPIRED, "the token has expired")  # the transport tidies up a moment later
        assert (await one.send("bob", "hello?")).delivery is Delivery.OFFLINE

    @pytest.mark.parametrize(
        "data",
        [None, True, 0, -1.5, "", [], {}, {"a": [1, {"b": None}]}, 2**53, "x" * 60_000],
        ids=lambda data: repr(data)[:12],
    )
    async def test_any_json_value_is_data(self, members: Members, data: object) -> None:
        """Fails if a falsy or a large value is lost, or one is taken for "no message"."""
        one = await members.start(redis_url=None)
        bob = await one.connect("bob")
        await one.send("bob", data)
        await eventually(lambda: bob.got == [data])

    async def test_raw_json_is_passed_on_as_it_was_written(self, members: Members) -> None:
        """Fails if data is decoded and written anew: 1.0 would become 1, and time would be lost."""
        one, two = await members.several(2)
        bob = await two.connect("bob")
        written = b'{"b":1.0, "a" : 1e2,"k":"\\uc548"}'
        await one.send("bob", msgspec.Raw(written))
        await eventually(lambda: bob.got)
        assert any(written in frame for write in bob.sink.writes for frame in write)

    async def test_ids_of_messages_are_never_the_same(self, members: Members) -> None:
        """Fails if two messages share an id: a client that drops repeats would lose one."""
        one = await members.start(redis_url=None)
        receipts: list[PublishResult] = [await one.send("bob", 1) for _ in range(100)]
        assert len({result.message_id for result in receipts}) == 100


async def _equals(pending: Any, value: object) -> bool:
    return bool(await pending == value)


async def _delivered(sending: Any, delivery: Delivery) -> bool:
    """Whether it got that far; a bus that is not back yet is no failure here."""
    try:
        result: PublishResult = await sending
    except BusUnavailable:
        return False
    return result.delivery is delivery

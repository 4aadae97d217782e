"""This replica's connections by user and by channel."""

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from heliograph.codecs.plain.codec import PlainCodec
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, as_text_frame, payload_only, text_frame
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Event, Pong
from heliograph.protocol.publication import Publication
from heliograph.telemetry import Telemetry, Traffic
from tests.support.members import RecordingSink

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE = Publication("#bob", msgspec.Raw(b'"hi"'), "m", "t")


class CountingCodec:
    """Counts how often it had to encode."""

    def __init__(self) -> None:
        self._codec = PlainCodec(32)
        self.encoded = 0

    def close_code(self, code: int) -> int:
        return code

    def encode(self, event: Event) -> bytes:
        self.encoded += 1
        return self._codec.encode(event)


class House:
    """A hub, and connections whose sockets are lists."""

    def __init__(self) -> None:
        self.telemetry = Telemetry()
        self._callbacks: list[Callable[[], None]] = []
        self.flush_scheduler = FlushScheduler(self._callbacks.append)
        self.hub = Hub(self.telemetry, self.flush_scheduler)
        self.codec = CountingCodec()
        self.encoding = Encoding(self.codec, payload_only, self.telemetry.traffic["websocket"])
        self.sinks: dict[Connection, RecordingSink] = {}

    def connection(self, user: str, encoding: Encoding[bytes] | None = None, limit_bytes: int = 10_000) -> Connection:
        sink = RecordingSink()
        outbox = Outbox(sink, self.flush_scheduler, limit_bytes)
        connection = Connection("c", user, encoding or self.encoding, outbox)
        self.sinks[connection] = sink
        return connection

    def add(self, user: str, encoding: Encoding[bytes] | None = None, limit_bytes: int = 10_000) -> Connection:
        connection = self.connection(user, encoding, limit_bytes)
        self.hub.add(connection)
        return connection

    def end_turn(self) -> None:
        """Everything that is due, and what becomes due of it."""
        while self._callbacks:
            self._callbacks.pop(0)()

    def got(self, connection: Connection) -> list[object]:
        self.end_turn()
        return [frame.get("data") for frame in self.sinks[connection].frames]


class TestMembership:
    def test_users_and_connections_are_counted(self) -> None:
        """Fails if a user's second connection counts as a user, or is not counted."""
        house = House()
        first, _, _ = house.add("bob"), house.add("bob"), house.add("안")
        house.hub.add(first)
        assert (house.hub.connections, house.hub.users) == (3, 2)
        assert (house.hub.count("bob"), house.hub.count("안"), house.hub.count("carol")) == (2, 1, 0)
        assert sorted(house.hub.user_ids()) == ["bob", "안"]

    def test_removing_tells_whether_it_was_there(self) -> None:
        """Fails if a connection is forgotten twice, or one that looks the same goes with it."""
        house = House()
        first, second = house.add("bob"), house.add("bob")
        stranger = house.connection("bob")
        assert not house.hub.remove(stranger)
        assert house.hub.remove(first)
        assert not house.hub.remove(first)
        assert (house.hub.connections, house.hub.count("bob")) == (1, 1)
        assert house.hub.remove(second)
        assert (house.hub.connections, house.hub.users, list(house.hub.user_ids())) == (0, 0, [])
        assert not house.hub.remove(house.connection("nobody"))

    def test_going_through_all_of_them_survives_changes(self) -> None:
        """Fails if a drain breaks because a client leaves (or comes) while it goes through the hub."""
        house = House()
        connections = [house.add(f"user-{number % 3}") for number in range(9)]
        seen = []
        for connection in house.hub:
            seen.append(connection)
            house.hub.remove(connection)
            house.add("new")
        assert Counter(seen) == Counter(connections)


class TestSubscriptions:
    def test_subscribers_are_those_who_asked(self) -> None:
        """Fails if a subscription reaches the user's other devices, counts twice, or outlives its end."""
        house = House()
        phone, laptop = house.add("bob"), house.add("bob")
        for _ in range(2):
            house.hub.subscribe(phone, "room:1")
        house.hub.subscribe(laptop, "room:2")
        assert set(house.hub.subscribers("room:1")) == {phone}
        assert phone.channels == {"room:1"}
        assert (house.hub.channels, list(house.hub.subscribers("room:3"))) == (2, [])
        assert house.hub.subscriptions == 2
        house.hub.unsubscribe(laptop, "room:1")
        assert set(house.hub.subscribers("room:1")) == {phone}
        for _ in range(2):
            house.hub.unsubscribe(phone, "room:1")
        assert (list(house.hub.subscribers("room:1")), phone.channels, house.hub.channels) == ([], set(), 1)
        assert house.hub.subscriptions == 1

    def test_who_is_forgotten_listens_to_nothing(self) -> None:
        """Fails if a closed connection stays among a channel's subscribers: it would never be collected."""
        house = House()
        bob, carol = house.add("bob"), house.add("carol")
        for channel in ("room:1", "room:2"):
            house.hub.subscribe(bob, channel)
        house.hub.subscribe(carol, "room:2")
        assert house.hub.remove(bob)
        assert (house.hub.channels, set(house.hub.subscribers("room:2")), bob.channels) == (1, {carol}, set())
        assert house.hub.subscriptions == 1


class TestDeliver:
    def test_to_every_subscriber_of_the_channel_and_nobody_else(self) -> None:
        """Fails if a subscriber is missed, a device that did not subscribe is reached, or the count is wrong."""
        house = House()
        phone, laptop, carol = house.add("bob"), house.add("bob"), house.add("carol")
        house.hub.subscribe(phone, "room:1")
        house.hub.subscribe(carol, "room:1")
        assert house.hub.deliver("room:1", MESSAGE) == 2
        assert house.hub.deliver("room:2", MESSAGE) == 0
        assert house.hub.deliver("bob", MESSAGE) == 0, "a user's name is no channel"
        assert (house.got(phone), house.got(laptop), house.got(carol)) == (["hi"], [], ["hi"])
        assert (house.telemetry.messages_out, house.codec.encoded) == (2, 1)

    def test_to_every_connection_of_the_user_and_nobody_else(self) -> None:
        """Fails if a device is missed, a stranger is reached, or the count is wrong."""
        house = House()
        phone, laptop, other = house.add("bob"), house.add("bob"), house.add("bobby")
        assert house.hub.deliver_to_user("bob", MESSAGE) == 2
        assert house.hub.deliver_to_user("nobody", MESSAGE) == 0
        assert (house.got(phone), house.got(laptop), house.got(other)) == (["hi"], ["hi"], [])
        assert house.telemetry.messages_out == 2

    def test_encoded_once_for_each_encoding(self) -> None:
        """Fails if a publication is encoded for each connection: that is what makes fan-out slow."""
        house = House()
        framed_codec = CountingCodec()
        framed = Encoding(framed_codec, as_text_frame, Traffic())
        plain_ones = [house.add("bob") for _ in range(50)]
        framed_ones = [house.add("bob", framed) for _ in range(50)]
        assert house.hub.deliver_to_user("bob", MESSAGE) == 100
        assert (house.codec.encoded, framed_codec.encoded) == (1, 1)
        house.end_turn()
        payload = PlainCodec(1).encode(MESSAGE)
        assert all(house.sinks[connection].writes == [[payload]] for connection in plain_ones)
        assert all(house.sinks[connection].writes == [[text_frame(payload)]] for connection in framed_ones)

    def test_nobody_here_costs_no_encoding(self) -> None:
        """Fails if a message for users of other replicas is encoded here."""
        house = House()
        house.add("alice")
        house.hub.deliver_to_user("bob", MESSAGE)
        assert house.codec.encoded == 0

    def test_a_slow_one_is_dropped_and_the_others_are_not(self) -> None:
        """Fails if a full outbox is ignored, costs others the message, or counts as having taken it."""
        house = House()
        slow, fast = house.add("bob", limit_bytes=100), house.add("bob")
        slow.outbox.pause()
        taken = [house.hub.deliver_to_user("bob", MESSAGE) for _ in range(5)]
        assert taken == [2, 1, 1, 1, 1]
        assert house.sinks[slow].closed == CloseCode.SLOW
        assert house.hub.count("bob") == 1
        assert house.got(fast) == ["hi"] * 5
        assert (house.telemetry.slow_closes, house.telemetry.messages_out) == (1, 6)

    def test_a_closed_one_takes_nothing(self) -> None:
        """Fails if a connection that was closed, and whose transport tidies up later, counts as having taken it."""
        house = House()
        closed, open_one = house.add("bob"), house.add("bob")
        closed.close(CloseCode.EXPIRED, "expired")
        assert house.hub.deliver_to_user("bob", MESSAGE) == 1
        assert (house.got(closed), house.got(open_one)) == ([], ["hi"])

    def test_telling_one_tells_only_that_one(self) -> None:
        """Fails if an answer goes to all devices of the user, or a full outbox is ignored."""
        house = House()
        one, other = house.add("bob", limit_bytes=100), house.add("bob")
        house.hub.send(one, Pong(request_id=1))
        house.end_turn()
        assert [frame["type"] for frame in house.sinks[one].frames] == ["pong"]
        assert house.sinks[other].frames == []
        one.outbox.pause()
        for _ in range(10):
            house.hub.send(one, Pong())
        assert house.sinks[one].closed == CloseCode.SLOW
        assert house.hub.connections == 1
        assert house.telemetry.slow_closes == 1, "dropped once, however often it is told something after that"


class HubModel(RuleBasedStateMachine):
    """The hub against a multiset of (user, connection), and sets of who listens to what."""

    connections: Bundle[Connection] = Bundle("connections")

    @initialize()
    def start(self) -> None:
        self.house = House()
        self.there: set[Connection] = set()
        self.expected: Counter[Connection] = Counter()
        self.listening: dict[str, set[Connection]] = {"x": set(), "y": set()}

    @rule(target=connections, user=st.sampled_from("abc"))
    def add(self, user: str) -> Connection:
        connection = self.house.add(user)
        self.there.add(connection)
        return connection

    @rule(connection=connections)
    def add_again(self, connection: Connection) -> None:
        self.house.hub.add(connection)
        self.there.add(connection)

    @rule(connection=connections)
    def remove(self, connection: Connection) -> None:
        assert self.house.hub.remove(connection) == (connection in self.there)
        self.there.discard(connection)
        for listening in self.listening.values():
            listening.discard(connection)

    @rule(connection=consumes(connections))
    def remove_for_good(self, connection: Connection) -> None:
        self.remove(connection)

    @rule(user=st.sampled_from("abcd"))
    def deliver(self, user: str) -> None:
        mine = [connection for connection in self.there if connection.user == user]
        assert self.house.hub.deliver_to_user(user, MESSAGE) == len(mine)
        self.expected.update(mine)

    @rule(connection=connections, channel=st.sampled_from("xy"))
    def subscribe(self, connection: Connection, channel: str) -> None:
        if connection in self.there:
            self.house.hub.subscribe(connection, channel)
            self.listening[channel].add(connection)

    @rule(connection=connections, channel=st.sampled_from("xyz"))
    def unsubscribe(self, connection: Connection, channel: str) -> None:
        self.house.hub.unsubscribe(connection, channel)
        self.listening.get(channel, set()).discard(connection)

    @rule(channel=st.sampled_from("xyz"))
    def deliver_on_channel(self, channel: str) -> None:
        listening = self.listening.get(channel, set())
        assert self.house.hub.deliver(channel, MESSAGE) == len(listening)
        self.expected.update(listening)

    @invariant()
    def it_knows_who_listens(self) -> None:
        hub = self.house.hub
        for channel, listening in self.listening.items():
            assert set(hub.subscribers(channel)) == listening
        assert hub.channels == sum(1 for listening in self.listening.values() if listening)
        for connection in self.there:
            assert connection.channels == {name for name, them in self.listening.items() if connection in them}

    @invariant()
    def it_knows_who_is_there(self) -> None:
        hub = self.house.hub
        assert Counter(hub) == Counter(self.there)
        assert hub.connections == len(self.there)
        users = Counter(connection.user for connection in self.there)
        assert {user: hub.count(user) for user in hub.user_ids()} == dict(users)
        assert hub.users == len(users)

    @invariant()
    def everybody_has_what_was_theirs(self) -> None:
        self.house.end_turn()
        got = {connection: len(sink.frames) for connection, sink in self.house.sinks.items() if sink.frames}
        assert got == dict(self.expected)


TestHubModel = HubModel.TestCase
TestHubModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_a_text_frame_is_what_the_rfc_says(size: int) -> None:
    """Fails if a payload of some length gets a frame that a client cannot read (RFC 6455 section 5.2)."""
    payload = b"x" * size
    frame = text_frame(payload)
    assert frame[0] == 0x81
    if size < 126:
        head, length = 2, frame[1]
    elif size < 1 << 16:
        assert frame[1] == 126
        head, length = 4, int.from_bytes(frame[2:4])
    else:
        assert frame[1] == 127
        head, length = 10, int.from_bytes(frame[2:10])
    assert length == size
    assert frame[head:] == payload

"""What is put by for a channel until a turn's end: nobody may be able to tell that it was."""

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import app.hub.hub
from app.hub.connection import Connection
from app.hub.frames import Encoding
from app.hub.hub import Hub
from app.hub.outbox import SLICE, Outbox, Turn
from app.protocol.codes import CloseCode
from app.protocol.events import Event, Message, Pong
from app.protocol.plain import PlainCodec
from app.protocol.publication import Publication
from app.telemetry import Telemetry

CHANNELS = ("room:1", "room:2")
_LINES = PlainCodec(4)


def message(number: int, channel: str = "room:1") -> Message:
    return Message.of(Publication(channel, msgspec.Raw(b"%d" % number), f"m{number}", "t"))


def line(payload: bytes) -> bytes:
    """A framing under which frames may be joined, and can be told apart again."""
    return payload + b"\n"


class Socket:
    """A sink that keeps what came as one row of numbers."""

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.closed: CloseCode | None = None

    def write(self, frames: list[bytes]) -> None:
        self.writes.append(list(frames))

    def close(self, code: CloseCode, reason: str) -> None:
        self.closed = code

    @property
    def got(self) -> list[int]:
        text = b"".join(frame for write in self.writes for frame in write)
        return [event.get("data", event.get("id")) for event in map(json.loads, text.splitlines())]


class Hall:
    """A hub whose turns end when the test says so."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.turn = Turn(self.callbacks.append)
        self.telemetry = Telemetry()
        self.hub = Hub(self.telemetry, self.turn)
        self.encoded = 0
        self.encodings = [self._encoding(joins=True), self._encoding(joins=False)]

    def encode(self, event: Event) -> bytes:
        self.encoded += 1
        return _LINES.encode(event)

    def _encoding(self, *, joins: bool) -> Encoding:
        return Encoding(self, line, self.telemetry.traffic["websocket"], joins=joins)

    def connect(self, *channels: str, limit_bytes: int = 1 << 20, encoding: int = 0) -> tuple[Connection, Socket]:
        socket = Socket()
        outbox = Outbox(socket, self.turn, limit_bytes)
        connection = Connection("c", f"user-{self.hub.connections}", self.encodings[encoding], outbox)
        self.hub.add(connection)
        for channel in channels:
            self.hub.subscribe(connection, channel)
        return connection, socket

    def end_turn(self) -> None:
        """Everything that is due, and what becomes due of it."""
        while self.callbacks:
            self.callbacks.pop(0)()


@pytest.fixture
def hall() -> Hall:
    return Hall()


class TestBatches:
    def test_one_write_of_joined_frames_for_each_socket(self, hall: Hall) -> None:
        """Fails if a turn's messages are encoded, joined or written more than once: that is what makes it quick."""
        sockets = [hall.connect("room:1")[1] for _ in range(20)]
        for number in range(5):
            assert hall.hub.deliver("room:1", message(number)) == 20
        hall.end_turn()
        assert hall.encoded == 5
        assert all(len(socket.writes) == 1 and len(socket.writes[0]) == 1 for socket in sockets)
        assert len({id(socket.writes[0][0]) for socket in sockets}) == 1, "the same bytes for all"
        assert sockets[7].got == [0, 1, 2, 3, 4]
        assert hall.telemetry.messages_out == 100

    def test_frames_that_cannot_be_joined_stay_apart(self, hall: Hall) -> None:
        """Fails if a stream, or another ASGI server, gets several events in what has to be one."""
        sockets = [hall.connect("room:1", encoding=number % 2)[1] for number in range(20)]
        for number in range(3):
            hall.hub.deliver("room:1", message(number))
        hall.end_turn()
        assert [len(socket.writes[0]) for socket in sockets[:4]] == [1, 3, 1, 3]
        assert all(socket.got == [0, 1, 2] for socket in sockets)
        assert hall.telemetry.messages_out == 60

    def test_who_comes_or_goes_meanwhile(self, hall: Hall) -> None:
        """Fails if a new listener gets what was before its time, or one that leaves misses what was in it."""
        leaving = hall.connect("room:1")
        for _ in range(20):
            hall.connect("room:1")
        hall.hub.deliver("room:1", message(1))
        coming = hall.connect("room:1")
        hall.hub.unsubscribe(leaving[0], "room:1")
        hall.hub.tell(leaving[0], Pong(id=99))
        hall.hub.deliver("room:1", message(2))
        hall.end_turn()
        assert (leaving[1].got, coming[1].got) == ([1, 99], [2])

    def test_a_goodbye_follows_what_was_said_before_it(self, hall: Hall) -> None:
        """Fails if who is thrown out in the same turn does not get the message that said so."""
        thrown_out, socket = hall.connect("room:1")
        others = [hall.connect("room:1")[1] for _ in range(20)]
        hall.hub.deliver("room:1", message(1))
        thrown_out.close(CloseCode.FORCED, "out")
        hall.hub.deliver("room:1", message(2))
        hall.end_turn()
        assert (socket.got, socket.closed) == ([1], CloseCode.FORCED)
        assert all(other.got == [1, 2] for other in others)

    def test_one_that_does_not_read_is_closed_and_the_others_are_not(self, hall: Hall) -> None:
        """Fails if a paused socket's messages are lost, wait without a limit, or cost anyone else a write."""
        stalled, socket = hall.connect("room:1", limit_bytes=1500)
        others = [hall.connect("room:1")[1] for _ in range(20)]
        stalled.outbox.pause(buffered=1000)
        for number in range(10):
            hall.hub.deliver("room:1", message(number))
            hall.end_turn()
        assert (socket.closed, socket.got) == (CloseCode.SLOW, [])
        assert (hall.telemetry.slow_closes, hall.hub.connections) == (1, 20)
        assert all(other.got == list(range(10)) and len(other.writes) == 10 for other in others)
        assert hall.telemetry.messages_out < 20 * 10 + 10

    def test_what_the_sink_keeps_counts_until_the_peer_reads(self, hall: Hall) -> None:
        """Fails if a connection may hold twice its limit, or is closed for what it has taken."""
        slow, socket = hall.connect(limit_bytes=200)
        slow.outbox.pause(buffered=150)
        hall.hub.tell(slow, Pong(id=1))
        slow.outbox.resume()
        hall.end_turn()
        slow.outbox.pause(buffered=0)
        for number in range(3):
            hall.hub.tell(slow, Pong(id=number))
        assert socket.closed is None
        slow.outbox.pause(buffered=150)
        hall.hub.tell(slow, Pong(id=1))
        assert socket.closed is CloseCode.SLOW

    def test_an_encoding_that_fails_is_not_the_end(self, hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if an event that cannot be encoded keeps the turn from being written, or any later one."""
        connections = [hall.connect("room:1") for _ in range(20)]
        hall.hub.tell(connections[0][0], Pong(id=5))
        with monkeypatch.context() as patch:
            patch.setattr(Hall, "encode", lambda self, event: 1 / 0)
            hall.hub.deliver("room:1", message(1))
            hall.end_turn()
        hall.hub.deliver("room:1", message(2))
        hall.end_turn()
        assert connections[0][1].got == [5, 2]


class TestManySockets:
    async def test_a_large_fan_out_lets_others_run_in_between_and_keeps_the_order(self, hall: Hall) -> None:
        """Fails if the loop is held until the last of very many sockets is written, or if one that is told something
        meanwhile gets it before the message that came first.
        """
        loop = asyncio.get_running_loop()
        hall.turn._call_soon = loop.call_soon
        everyone = [hall.connect("room:1") for _ in range(6 * SLICE)]
        written = 0

        def count(frames: list[bytes]) -> None:
            nonlocal written
            written += 1

        for connection, _ in everyone[1:-1]:
            connection.outbox._write = count
        hall.hub.deliver("room:1", message(1))
        await asyncio.sleep(0)
        steps = [written]
        hall.hub.tell(everyone[0][0], Pong(id=7))
        hall.hub.tell(everyone[-1][0], Pong(id=8))
        while not everyone[-1][1].got:
            await asyncio.sleep(0)
            steps.append(written)
        assert len(steps) >= 6
        assert max(later - earlier for earlier, later in pairwise(steps)) <= SLICE
        await asyncio.sleep(0)
        assert everyone[0][1].got == [1, 7]
        assert everyone[-1][1].got == [1, 8]


class OrderModel(RuleBasedStateMachine):
    """Each socket against a list that is appended to at once: batches change when, never what or in what order."""

    @initialize()
    def start(self) -> None:
        self.hall = Hall()
        self.number = 0
        self.sockets: dict[Connection, Socket] = {}
        self.expected: dict[Connection, list[int]] = {}
        self.paused: set[Connection] = set()
        self.gone: set[Connection] = set()
        for number in range(6):
            self.connect(list(CHANNELS[: 1 + number % 2]), number % 2)

    @rule(channels=st.lists(st.sampled_from(CHANNELS), unique=True), encoding=st.integers(0, 1))
    def connect(self, channels: list[str], encoding: int) -> None:
        if len(self.sockets) < 12:
            connection, socket = self.hall.connect(*channels, encoding=encoding)
            self.sockets[connection] = socket
            self.expected[connection] = []

    def _pick(self, index: int) -> Connection:
        there = [connection for connection in self.sockets if connection not in self.gone]
        return there[index % len(there)]

    @rule(channel=st.sampled_from(CHANNELS))
    def deliver(self, channel: str) -> None:
        self.number += 1
        listening = list(self.hall.hub.subscribers(channel))
        assert self.hall.hub.deliver(channel, message(self.number, channel)) == len(listening)
        for connection in listening:
            self.expected[connection].append(self.number)

    @rule(index=st.integers(0, 20))
    def tell(self, index: int) -> None:
        self.number += 1
        connection = self._pick(index)
        self.hall.hub.tell(connection, Pong(id=self.number))
        self.expected[connection].append(self.number)

    @rule(index=st.integers(0, 20))
    def deliver_to_user(self, index: int) -> None:
        self.number += 1
        connection = self._pick(index)
        mine = [each for each in self.hall.hub if each.user == connection.user]
        assert self.hall.hub.deliver_to_user(connection.user, message(self.number)) == len(mine)
        for each in mine:
            self.expected[each].append(self.number)

    @rule(index=st.integers(0, 20), channel=st.sampled_from(CHANNELS), leave=st.booleans())
    def change(self, index: int, channel: str, leave: bool) -> None:
        change = self.hall.hub.unsubscribe if leave else self.hall.hub.subscribe
        change(self._pick(index), channel)

    @rule(index=st.integers(0, 20), pause=st.booleans())
    def pause_or_resume(self, index: int, pause: bool) -> None:
        connection = self._pick(index)
        if pause:
            connection.outbox.pause(buffered=10)
            self.paused.add(connection)
        else:
            connection.outbox.resume()
            self.paused.discard(connection)

    @precondition(lambda self: len(self.sockets) - len(self.gone) > 4)
    @rule(index=st.integers(0, 20))
    def close(self, index: int) -> None:
        connection = self._pick(index)
        connection.close(CloseCode.EXPIRED, "expired")
        if connection not in self.paused:
            assert self.sockets[connection].got == self.expected[connection], "a goodbye comes last"
        self.expected[connection] = self.sockets[connection].got
        self.hall.hub.remove(connection)
        self.gone.add(connection)

    @rule()
    def end_turn(self) -> None:
        self.hall.end_turn()
        for connection, socket in self.sockets.items():
            if connection not in self.paused:
                assert socket.got == self.expected[connection]

    @invariant()
    def nobody_has_what_is_not_theirs(self) -> None:
        for connection, socket in self.sockets.items():
            got = socket.got
            assert got == self.expected[connection][: len(got)]


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    """So that the few sockets of the model are many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.hub.hub, "FEW", 2)
        yield


TestOrderModel = OrderModel.TestCase
TestOrderModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

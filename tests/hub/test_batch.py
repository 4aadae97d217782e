"""What is put by for a channel until a turn's end: nobody may be able to tell that it was."""

import json
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import heliograph.hub.batch
import heliograph.hub.hub
import heliograph.hub.outbox
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Event, Pong
from heliograph.protocol.publication import Publication
from heliograph.telemetry import Telemetry

CHANNELS = ("room:1", "room:2")
SLICE = 3
_LINES = PlainCodec(4)


def message(number: int, channel: str = "room:1") -> Publication:
    return Publication(channel, msgspec.Raw(b"%d" % number), f"m{number}", "t")


def line(payload: bytes, event: Event) -> bytes:
    """A framing under which frames may be joined, and can be told apart again."""
    return payload + b"\n"


class Socket:
    """A sink that keeps what came as one row of numbers."""

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.closed: CloseCode | None = None

    def write(self, frames: list[bytes]) -> None:
        self.writes.append(list(frames))

    def close(self, code: int, reason: str) -> None:
        self.closed = CloseCode(code)

    @property
    def got(self) -> list[int]:
        text = b"".join(frame for write in self.writes for frame in write)
        return [event.get("data", event.get("id")) for event in map(json.loads, text.splitlines())]


class Hall:
    """A hub whose turns end when the test says so."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.flush_scheduler = FlushScheduler(self.callbacks.append)
        self.telemetry = Telemetry()
        self.hub = Hub(self.telemetry, self.flush_scheduler)
        self.encoded = 0
        self.encodings = [self._encoding(joins=True), self._encoding(joins=False)]

    def close_code(self, code: int) -> int:
        return code

    def encode(self, event: Event) -> bytes:
        self.encoded += 1
        return _LINES.encode(event)

    def _encoding(self, *, joins: bool) -> Encoding[bytes]:
        return Encoding(self, line, self.telemetry.traffic["websocket"], join=b"".join if joins else None)

    def connect(self, *channels: str, limit_bytes: int = 1 << 20, encoding: int = 0) -> tuple[Connection, Socket]:
        socket = Socket()
        outbox = Outbox(socket, self.flush_scheduler, limit_bytes)
        connection = Connection("c", f"user-{self.hub.connections}", self.encodings[encoding], outbox)
        self.hub.add(connection)
        for channel in channels:
            self.hub.subscribe(connection, channel)
        return connection, socket

    def run_once(self) -> None:
        """What is due, as a loop does it between two looks at its sockets."""
        due, self.callbacks[:] = self.callbacks[:], []
        for callback in due:
            callback()

    def end_turn(self) -> None:
        """Everything that is due, and what becomes due of it."""
        while self.callbacks:
            self.run_once()


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
        assert len({id(socket.writes[0][0]) for socket in sockets}) == 2, "joined once, although they take turns"
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
        hall.hub.send(leaving[0], Pong(request_id=99))
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
        hall.hub.send(slow, Pong(request_id=1))
        slow.outbox.resume()
        hall.end_turn()
        slow.outbox.pause(buffered=0)
        for number in range(3):
            hall.hub.send(slow, Pong(request_id=number))
        assert not socket.closed
        slow.outbox.pause(buffered=150)
        hall.hub.send(slow, Pong(request_id=1))
        assert socket.closed == CloseCode.SLOW

    def test_an_encoding_that_fails_is_not_the_end(self, hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if an event that cannot be encoded keeps the turn from being written, or any later one."""
        connections = [hall.connect("room:1") for _ in range(20)]
        hall.hub.send(connections[0][0], Pong(request_id=5))
        with monkeypatch.context() as patch:
            patch.setattr(Hall, "encode", lambda self, event: 1 / 0)
            hall.hub.deliver("room:1", message(1))
            hall.end_turn()
        hall.hub.deliver("room:1", message(2))
        hall.end_turn()
        assert connections[0][1].got == [5, 2]


class TestManySockets:
    """More than one slice of them: whoever else wants something of the loop does not wait for all."""

    def test_they_are_written_in_slices_and_what_the_loop_has_to_do_comes_in_between(self, hall: Hall) -> None:
        """Fails if the loop is held until the last of very many sockets is written, or if what was asked for in the
        turn of the fan-out, or came while a slice was written, waits for one more slice.
        """
        everyone = [hall.connect("room:1") for _ in range(6 * SLICE)]
        written = [0]
        ahead: list[int] = []  # how many were written before what else was due

        def other_work() -> None:
            ahead.append(sum(len(socket.writes) for _, socket in everyone))

        hall.hub.deliver("room:1", message(1))
        hall.callbacks.append(other_work)
        while hall.callbacks:
            hall.run_once()
            now_written = sum(len(socket.writes) for _, socket in everyone)
            if now_written > written[-1]:
                written.append(now_written)
                hall.callbacks.append(other_work)
        assert written == [number * SLICE for number in range(7)]
        assert ahead == written
        assert all(socket.got == [1] for _, socket in everyone)

    def test_one_who_is_told_something_meanwhile_does_not_wait_for_all(self, hall: Hall) -> None:
        """Fails if a message to one user, or an answer, waits behind a fan-out to very many; or is told before it."""
        everyone = [hall.connect("room:1") for _ in range(6 * SLICE)]
        other, their_socket = hall.connect()
        hall.hub.deliver("room:1", message(1))
        while not everyone[0][1].got:
            hall.run_once()
        for connection in (everyone[0][0], everyone[-1][0], other):
            hall.hub.send(connection, Pong(request_id=7))
        hall.run_once()
        assert everyone[0][1].got == [1, 7]
        assert everyone[-1][1].got == [1, 7]
        assert their_socket.got == [7]
        assert everyone[-2][1].got == []
        hall.end_turn()
        assert all(socket.got == [1] for _, socket in everyone[1:-1])

    def test_what_comes_meanwhile_for_all_goes_round_with_the_rest(self, hall: Hall) -> None:
        """Fails if who is written to later does not get at once all that has come by then, if who was written to
        early gets each message by itself, or before the others have been written to.
        """
        everyone = [hall.connect("room:1")[1] for _ in range(6 * SLICE)]
        sent = 0
        while sent < 12:
            sent += 1
            hall.hub.deliver("room:1", message(sent))
            written = sum(len(socket.writes) for socket in everyone)
            while sum(len(socket.writes) for socket in everyone) == written:
                hall.run_once()
        hall.end_turn()
        first, last = everyone[0], everyone[-1]
        assert [len(b"".join(write).splitlines()) for write in first.writes] == [1, 6, 5]
        assert [len(b"".join(write).splitlines()) for write in last.writes] == [6, 6]
        assert all(socket.got == list(range(1, 13)) for socket in everyone)

    def test_very_many_who_are_told_one_by_one_are_written_in_slices_too(self, hall: Hall) -> None:
        """Fails if a storm of messages to single users holds the loop, or makes it forget a fan-out."""
        listening = [hall.connect("room:1")[1] for _ in range(3 * SLICE)]
        others = [hall.connect() for _ in range(3 * SLICE)]
        hall.hub.deliver("room:1", message(1))
        while not listening[0].got:
            hall.run_once()
        for connection, _ in others:
            hall.hub.send(connection, Pong(request_id=7))
        written = sum(len(socket.writes) for socket in listening)
        while hall.callbacks:
            hall.run_once()
            now_written = sum(len(socket.writes) for socket in listening + [socket for _, socket in others])
            assert now_written - written <= SLICE
            written = now_written
        assert all(socket.got == [1] for socket in listening)
        assert all(socket.got == [7] for _, socket in others)

    @pytest.mark.parametrize("told", [1, SLICE, 2 * SLICE])
    def test_nobody_stands_in_the_queue_twice(self, hall: Hall, told: int) -> None:
        """Fails if who is told something by itself again and again gets one more place in the queue each time: under
        a load that lasts, the queue would be full of them, and the others would wait ever longer.
        """
        everyone = [hall.connect("room:1") for _ in range(6 * SLICE)]
        for number in range(100):
            hall.hub.deliver("room:1", message(number))
            hall.run_once()
            for connection, _ in everyone[-told:]:
                hall.hub.send(connection, Pong(request_id=number))
            hall.run_once()
            assert len(hall.flush_scheduler._queue) <= 6 * SLICE
        hall.end_turn()
        assert everyone[0][1].got == list(range(100))
        assert everyone[-1][1].got == [number for number in range(100) for _ in range(2)]

    def test_a_room_of_few_does_not_wait_for_the_hall(self, hall: Hall) -> None:
        """Fails if what a few listen to waits until very many have been written to."""
        everyone = [hall.connect("room:1")[1] for _ in range(6 * SLICE)]
        few = [hall.connect("room:2")[1] for _ in range(SLICE)]
        hall.hub.deliver("room:1", message(1))
        while not everyone[0].got:
            hall.run_once()
        hall.hub.deliver("room:2", message(2))
        hall.run_once()
        assert [socket.got for socket in few] == [[2]] * SLICE
        assert everyone[-1].got == []
        hall.end_turn()
        assert everyone[-1].got == [1]

    def test_many_of_several_channels_wait_for_each_other(self, hall: Hall) -> None:
        """Fails if a fan-out that begins while another is written takes its place."""
        first, second = ([hall.connect(channel)[1] for _ in range(6 * SLICE)] for channel in CHANNELS)
        hall.hub.deliver("room:1", message(1))
        while not first[0].got:
            hall.run_once()
        hall.hub.deliver("room:2", message(2))
        hall.hub.deliver("room:1", message(3))
        while not second[-1].got:
            hall.run_once()
            assert first[-1].got or not second[0].got
        hall.end_turn()
        assert all(socket.got == [1, 3] for socket in first)
        assert all(socket.got == [2] for socket in second)


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
        self.hall.hub.send(connection, Pong(request_id=self.number))
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
    def run_once(self) -> None:
        self.hall.run_once()

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
        patch.setattr(heliograph.hub.hub, "FEW", 2)
        patch.setattr(heliograph.hub.batch, "MANY", SLICE)
        patch.setattr(heliograph.hub.outbox, "MANY", SLICE)
        patch.setattr(heliograph.hub.outbox, "SLICE", SLICE)
        yield


TestOrderModel = OrderModel.TestCase
TestOrderModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

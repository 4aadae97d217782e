"""What waits for one connection, and the turn that writes it. No loop: the turn's end is called by the test."""

import logging
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.protocol.codes import CloseCode
from tests.support.members import RecordingSink

LIMIT = 1000


class Loop:
    """`call_soon`, and a turn that ends when the test says so."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def end_turn(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


class Case:
    """Some outboxes that share a turn."""

    def __init__(self, count: int = 1, limit_bytes: int = LIMIT) -> None:
        self.loop = Loop()
        self.flush_scheduler = FlushScheduler(self.loop.call_soon)
        self.sinks = [RecordingSink() for _ in range(count)]
        self.outboxes = [Outbox(sink, self.flush_scheduler, limit_bytes) for sink in self.sinks]
        self.sink, self.outbox = self.sinks[0], self.outboxes[0]

    @property
    def written(self) -> list[bytes]:
        return [frame for write in self.sink.writes for frame in write]


class TestTurn:
    def test_one_write_for_each_connection_and_turn(self) -> None:
        """Fails if frames are written one by one, before the turn's end, or one connection's with another's."""
        case = Case(count=2)
        for number in range(5):
            for outbox in case.outboxes:
                assert outbox.offer(b"%d" % number) is None
        assert [sink.writes for sink in case.sinks] == [[], []]
        assert len(case.loop.callbacks) == 1, "one call_soon for all of them"
        case.loop.end_turn()
        assert [sink.writes for sink in case.sinks] == [[[b"0", b"1", b"2", b"3", b"4"]]] * 2

    def test_each_turn_is_a_write_of_its_own(self) -> None:
        """Fails if the second turn is not scheduled, or writes the first one's frames again."""
        case = Case()
        for frame in (b"a", b"b"):
            case.outbox.offer(frame)
            case.loop.end_turn()
        assert case.sink.writes == [[b"a"], [b"b"]]

    def test_nothing_to_write_is_no_write(self) -> None:
        """Fails if an outbox that was emptied before the turn's end writes an empty list."""
        case = Case()
        case.outbox.offer(b"a")
        case.outbox.flush()
        case.loop.end_turn()
        assert case.sink.writes == [[b"a"]]

    def test_a_failing_sink_does_not_cost_the_others(self, caplog: pytest.LogCaptureFixture) -> None:
        """Fails if one broken socket keeps the rest of the turn from being written, or stays open."""
        case = Case(count=3)
        case.sinks[1].fails = True
        for outbox in case.outboxes:
            outbox.offer(b"x")
        with caplog.at_level(logging.ERROR):
            case.loop.end_turn()
        assert [sink.writes for sink in case.sinks] == [[[b"x"]], [], [[b"x"]]]
        assert [sink.closed for sink in case.sinks] == [None, CloseCode.INTERNAL_ERROR, None]
        assert "writing to a connection failed" in caplog.text
        case.outboxes[1].offer(b"y")
        case.outboxes[2].offer(b"y")
        case.loop.end_turn()
        assert case.sinks[2].writes == [[b"x"], [b"y"]]
        assert case.sinks[1].writes == []

    def test_a_sink_that_offers_while_it_is_written_to_gets_a_turn(self) -> None:
        """Fails if what is offered during the turn's end is lost or written twice."""
        case = Case(count=2)

        class Echo(RecordingSink):
            def write(self, frames: list[bytes]) -> None:
                super().write(frames)
                case.outboxes[1].offer(b"echo")

        echo = Outbox(Echo(), case.flush_scheduler, LIMIT)
        echo.offer(b"x")
        case.outboxes[1].offer(b"y")
        case.loop.end_turn()
        case.loop.end_turn()
        assert case.sinks[1].writes in ([[b"y"], [b"echo"]], [[b"y", b"echo"]])


class TestLimit:
    def test_over_the_limit_is_slow_and_at_the_limit_is_not(self) -> None:
        """Fails if the limit is off by one, or the answer is lost."""
        case = Case()
        case.outbox.pause()
        assert case.outbox.offer(b"x" * LIMIT) is None
        assert case.outbox.offer(b"y") == CloseCode.SLOW

    def test_what_was_written_no_longer_counts(self) -> None:
        """Fails if bytes are counted for ever: any connection would be slow in the end."""
        case = Case()
        for _ in range(10):
            assert case.outbox.offer(b"x" * LIMIT) is None
            case.loop.end_turn()

    def test_a_reader_is_not_slow_because_one_iteration_brings_much(self) -> None:
        """Fails if a burst over the limit closes a peer that reads, or is written out of order or twice."""
        case = Case()
        frames = [b"%d" % number + b"x" * 400 for number in range(10)]
        for frame in frames[:5]:
            assert case.outbox.offer(frame) is None
        assert case.outbox.offer_all(frames[5:], 5 * 401) is None
        case.loop.end_turn()
        assert case.written == frames

    def test_what_the_sink_cannot_get_rid_of_counts(self) -> None:
        """Fails if a burst costs any amount of memory: the transport has its own buffer, and it is full."""
        case = Case()
        case.sink.on_write = lambda frames: case.outbox.pause(buffered=sum(map(len, frames)))
        assert case.outbox.offer(b"x" * LIMIT) is None
        assert case.outbox.offer(b"y") == CloseCode.SLOW
        case = Case()
        case.sink.on_write = lambda frames: case.outbox.pause(buffered=LIMIT // 2)
        assert case.outbox.offer(b"x" * LIMIT) is None
        assert case.outbox.offer(b"y") is None, "the peer has taken half of it"
        assert case.outbox.offer(b"z" * LIMIT) == CloseCode.SLOW

    def test_a_write_that_fails_in_a_burst_closes_that_one(self) -> None:
        """Fails if a broken socket's error reaches whoever publishes."""
        case = Case()
        case.sink.fails = True
        assert case.outbox.offer(b"x" * (LIMIT + 1)) is None
        assert case.sink.closed == CloseCode.INTERNAL_ERROR

    def test_a_held_connection_has_the_same_limit(self) -> None:
        """Fails if a client that is never greeted may cost any amount of memory."""
        case = Case()
        case.outbox.hold()
        assert case.outbox.offer(b"x" * LIMIT) is None
        assert case.outbox.offer(b"y") == CloseCode.SLOW


class TestHold:
    def test_the_greeting_comes_before_what_was_held(self) -> None:
        """Fails if a message reaches the client before its greeting."""
        case = Case()
        case.outbox.hold()
        case.outbox.offer(b"message")
        case.loop.end_turn()
        assert case.written == []
        case.outbox.open(b"greeting")
        case.loop.end_turn()
        assert case.sink.writes == [[b"greeting", b"message"]]

    def test_what_was_there_before_the_hold_is_written_at_once(self) -> None:
        """Fails if an answer from before `connect` is kept behind the greeting."""
        case = Case()
        case.outbox.offer(b"pong")
        case.outbox.hold()
        assert case.written == [b"pong"]

    def test_the_greeting_does_not_overtake_what_was_queued_before_the_hold(self) -> None:
        """Fails if a busy peer (paused) is answered out of order: first what came before `connect`."""
        case = Case()
        case.outbox.pause()
        case.outbox.offer(b"pong")
        case.outbox.hold()
        case.outbox.offer(b"message")
        case.outbox.open(b"greeting")
        case.outbox.resume()
        case.loop.end_turn()
        assert case.written == [b"pong", b"greeting", b"message"]

    def test_a_paused_peer_is_greeted_when_it_reads(self) -> None:
        """Fails if `open` writes to a socket that is full, or `resume` forgets the greeting."""
        case = Case()
        case.outbox.hold()
        case.outbox.pause()
        case.outbox.open(b"greeting")
        case.loop.end_turn()
        assert case.written == []
        case.outbox.resume()
        case.loop.end_turn()
        assert case.written == [b"greeting"]

    def test_a_client_that_was_never_greeted_is_told_nothing(self) -> None:
        """Fails if closing a held connection (it was refused) writes the messages that were held for it."""
        case = Case()
        case.outbox.hold()
        case.outbox.offer(b"message")
        case.outbox.close(CloseCode.CONNECTION_LIMIT, "too many")
        case.loop.end_turn()
        assert case.written == []
        assert case.sink.closed == CloseCode.CONNECTION_LIMIT


class TestClose:
    def test_what_waits_is_written_before_goodbye(self) -> None:
        """Fails if an error frame that explains the close is lost."""
        case = Case()
        order: list[str] = []
        case.sink.on_close = lambda: order.append(f"closed after {case.written}")
        case.outbox.offer(b"why")
        case.outbox.close(CloseCode.BAD_REQUEST, "reason")
        assert order == ["closed after [b'why']"]
        assert (case.sink.closed, case.sink.reason) == (CloseCode.BAD_REQUEST, "reason")

    def test_a_paused_peer_is_not_written_to(self) -> None:
        """Fails if closing a slow connection first stuffs its full socket."""
        case = Case()
        case.outbox.pause()
        case.outbox.offer(b"x")
        case.outbox.close(CloseCode.SLOW, "slow")
        case.outbox.resume()
        case.loop.end_turn()
        assert case.written == []
        assert case.sink.closed == CloseCode.SLOW

    def test_only_the_first_close_counts_and_nothing_comes_after(self) -> None:
        """Fails if a connection is closed twice, or written to after its close frame."""
        case = Case()
        case.outbox.close(CloseCode.EXPIRED, "first")
        case.outbox.close(CloseCode.SLOW, "second")
        assert case.outbox.offer(b"late") is None
        assert case.outbox.offer(b"x" * 10 * LIMIT) is None, "a closed connection is not slow as well"
        case.outbox.open(b"greeting")
        case.outbox.resume()
        case.loop.end_turn()
        assert case.written == []
        assert case.sink.closed == CloseCode.EXPIRED

    def test_a_sink_that_fails_while_closing_is_closed_all_the_same(self) -> None:
        """Fails if a failing last write leaves the socket open."""
        case = Case()
        case.outbox.offer(b"x")
        case.sink.fails = True
        with pytest.raises(ConnectionResetError):
            case.outbox.close(CloseCode.SHUTDOWN, "bye")
        assert case.sink.closed == CloseCode.SHUTDOWN


class OutboxModel(RuleBasedStateMachine):
    """Any sequence of operations against a list: order kept, nothing lost before close, nothing after it."""

    @initialize()
    def start(self) -> None:
        self.case = Case(limit_bytes=40)
        self.outbox = self.case.outbox
        self.number = 0
        self.waits: list[bytes] = []  # what the outbox has, in order
        self.written: list[bytes] = []  # what the sink must have
        self.before_hold = 0
        self.held = self.paused = self.closed = False

    def _flushed(self) -> None:
        if not self.held and not self.paused:
            self.written += self.waits
            self.waits = []

    @rule(size=st.integers(0, 20))
    def offer(self, size: int) -> None:
        self.number += 1
        frame = b"%d:" % self.number + b"x" * size
        answer = self.outbox.offer(frame)
        if self.closed:
            assert answer is None
            return
        self.waits.append(frame)
        if sum(map(len, self.waits)) > 40:
            self._flushed()
        assert answer == (CloseCode.SLOW if sum(map(len, self.waits)) > 40 else None)
        if answer is not None:
            self.close(answer)

    @precondition(lambda self: not self.held)
    @rule()
    def hold(self) -> None:
        self.outbox.hold()
        if not self.closed:
            self._flushed()
        self.before_hold = len(self.waits)
        self.held = True

    @precondition(lambda self: self.held)
    @rule()
    def open(self) -> None:
        self.number += 1
        greeting = b"%d:greeting" % self.number
        self.outbox.open(greeting)
        self.held = False
        if not self.closed:
            self.waits.insert(self.before_hold, greeting)

    @rule()
    def pause(self) -> None:
        self.outbox.pause()
        self.paused = True

    @rule()
    def resume(self) -> None:
        self.outbox.resume()
        self.paused = False

    @rule()
    def flush(self) -> None:
        self.outbox.flush()
        if not self.closed:
            self._flushed()

    @rule()
    def end_turn(self) -> None:
        self.case.loop.end_turn()
        if not self.closed:
            self._flushed()

    @rule(code=st.sampled_from(CloseCode))
    def close(self, code: CloseCode) -> None:
        was_closed = self.closed
        self.outbox.close(code, "reason")
        if was_closed:
            return
        if self.held:
            del self.waits[self.before_hold :]  # it was never greeted
        self.held = False
        self._flushed()
        self.waits = []
        self.closed = True
        assert self.case.sink.closed == code

    @invariant()
    def the_sink_has_what_it_must(self) -> None:
        assert self.case.written == self.written
        assert (self.case.sink.closed is not None) == self.closed

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """What may go out is on its way: a turn's end is due whenever something waits that need not."""
        if self.waits and not (self.held or self.paused or self.closed):
            assert self.case.loop.callbacks


TestOutboxModel = OutboxModel.TestCase
TestOutboxModel.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)

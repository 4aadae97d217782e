"""What waits to be written to one connection, and the scheduler that writes it.

Nothing is written while events are delivered. Everything that one event-loop iteration brings to a connection goes
out in one write at its end: under light load one message at once, under heavy load in batches that grow by
themselves. A large fan-out is written in slices, and other work of the loop comes in between. A connection whose peer
does not read is paused; it costs the others nothing, and is over its limit when too many bytes wait. If one iteration
brings more than the limit, it is written before the end: only bytes that are not read count.
"""

import logging
from collections.abc import Callable
from typing import Any, Generic

from heliograph.hub.frames import F, Sink
from heliograph.hub.trace import NO_TRACE, Trace
from heliograph.protocol.codes import CloseCode

logger = logging.getLogger(__name__)

_NOTHING: list[Any] = []  # shared by all empty outboxes; never changed
DRAINED_BYTES = 65_536  # a long replay goes on when no more than this waits
MANY = 64  # a fan-out to more outboxes than this uses the queue
SLICE = 32  # outboxes that are written in a row, in a tenth or two of a millisecond


class FlushScheduler:
    """The outboxes that this event-loop iteration has filled, and the queue of large fan-outs.

    The queue is written in slices, one in each iteration; other outboxes are written at the end of their iteration.
    An outbox that is filled again after its slice goes to the end of the queue. So the queue goes round, and each
    write takes everything since the last. No outbox is in it twice.

    `call_soon` runs a callback once, after what runs now (an event loop's method of that name).
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._filled: list[Outbox[Any]] = []
        self._queue: list[Outbox[Any]] = []
        self._hand_out: Callable[[], None] | None = None
        self._end_is_due = False
        self._slice_is_due = False

    def before_writing(self, hand_out: Callable[[], None]) -> None:
        """Call `hand_out` once, at the end of the iteration: it fills outboxes."""
        self._hand_out = hand_out
        self._schedule_end()

    def add(self, outbox: "Outbox[Any]") -> None:
        """Write the outbox at the end of the iteration."""
        self._filled.append(outbox)
        self._schedule_end()

    def enqueue(self, outbox: "Outbox[Any]") -> None:
        """Write the outbox after those in the queue, unless it is already there."""
        if not outbox.queued:
            outbox.queued = True
            self._queue.append(outbox)
            self._schedule_end()

    def hand_out(self) -> None:
        """Fill the outboxes now with held events."""
        hand_out, self._hand_out = self._hand_out, None
        if hand_out is not None:
            hand_out()

    def end(self) -> None:
        """Write the filled outboxes, one write for each connection."""
        self._end_is_due = False
        try:
            self.hand_out()
        except Exception:
            logger.exception("delivering a batch failed with an unexpected error")
        filled, self._filled = self._filled, []
        if len(filled) <= MANY:
            _flush(filled)
        else:
            for outbox in filled:
                self.enqueue(outbox)
        if self._queue and not self._slice_is_due:
            self._slice_is_due = True
            self._call_soon(self._write_slice)

    def _schedule_end(self) -> None:
        if not self._end_is_due:
            self._end_is_due = True
            self._call_soon(self.end)

    def _write_slice(self) -> None:
        outboxes = self._queue[:SLICE]
        del self._queue[:SLICE]
        self._slice_is_due = bool(self._queue)
        if self._slice_is_due:
            self._call_soon(self._go_on)
        for outbox in outboxes:
            outbox.queued = False
        _flush(outboxes)

    def _go_on(self) -> None:
        """Schedule the next slice after the loop's other work."""
        self._call_soon(self._write_slice)


def _flush(outboxes: "list[Outbox[Any]]") -> None:
    for outbox in outboxes:
        try:
            outbox.flush()
        except Exception:
            logger.exception("writing to a connection failed; the connection is closed")
            outbox.close(CloseCode.INTERNAL_ERROR, "a write failed")


class Outbox(Generic[F]):
    """The frames of one connection, in order. They go to `sink`; more than `limit_bytes` of them are too many.

    Bytes in the sink's own buffer when it paused count too.
    """

    __slots__ = (
        "_buffered",
        "_bytes",
        "_flush_scheduler",
        "_frames",
        "_greet_at",
        "_held",
        "_limit_bytes",
        "_paused",
        "_scheduled",
        "_shared",
        "_sink",
        "_trace",
        "_write",
        "closed",
        "owner",
        "queued",
    )

    def __init__(
        self, sink: Sink[F], flush_scheduler: FlushScheduler, limit_bytes: int, trace: Trace = NO_TRACE
    ) -> None:
        self.owner = ""  # the id of its connection, which sets this
        self._trace = trace
        self._sink = sink
        self._write = sink.write
        self._flush_scheduler = flush_scheduler
        self._limit_bytes = limit_bytes
        self._frames: list[F] = _NOTHING
        self._shared = True  # other outboxes have the same list: copy it before a change
        self._bytes = 0
        self._buffered = 0  # bytes in the sink's own buffer while it is paused
        self._held = False  # the greeting was not sent yet
        self._greet_at = 0  # how many frames were queued before it was held
        self._paused = False  # the peer does not read
        self._scheduled = False  # it is written at the end of the iteration
        self.queued = False  # it is in the scheduler's queue, which sets this
        self.closed = False  # True once nothing more goes out

    @property
    def is_drained(self) -> bool:
        """True if the peer has read nearly everything, and may get more."""
        return self._bytes <= DRAINED_BYTES and 4 * self._bytes <= self._limit_bytes

    @property
    def waiting_bytes(self) -> int:
        """The bytes that the peer has not read, as far as they wait in this process."""
        return self._bytes + self._buffered

    @property
    def is_paused(self) -> bool:
        """True while the peer does not read, so that what it should read may wait here."""
        return self._paused

    def offer(self, frame: F) -> CloseCode | None:
        """Queue a frame. Return why the connection must be closed now, or None."""
        if self.closed:
            return None
        if self._shared:
            self._frames, self._shared = [*self._frames, frame], False
        else:
            self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes + self._buffered > self._limit_bytes:
            return self._make_room()
        if not (self._scheduled or self._held or self._paused):
            self._scheduled = True
            self._flush_scheduler.add(self)
        return None

    def offer_all(self, frames: list[F], size: int, *, to_many: bool = False) -> CloseCode | None:
        """Queue some frames, of `size` bytes in all. Other outboxes may share the list, and nobody changes it.

        `to_many`: it is a large fan-out, so the frames wait in the queue unless this outbox gets more by itself.
        """
        if self.closed:
            return None
        if self._frames:
            self._frames = self._frames + frames
            self._shared = False
            self._bytes += size
        else:
            self._frames, self._shared = frames, True
            self._bytes = size
        if self._bytes + self._buffered > self._limit_bytes:
            return self._make_room()
        if not (self._scheduled or self._held or self._paused):
            if not to_many:
                self._scheduled = True
                self._flush_scheduler.add(self)
            elif not self.queued:
                self._flush_scheduler.enqueue(self)
        return None

    def _make_room(self) -> CloseCode | None:
        """Handle an outbox over its limit. If the peer reads, one iteration has brought that much: write it now.

        Only bytes that the sink keeps count then.
        """
        if not (self._held or self._paused):
            _flush([self])
        return CloseCode.SLOW if self._bytes + self._buffered > self._limit_bytes else None

    def hold(self) -> None:
        """Hold frames back from now on, until `open`.

        So a connection can be registered before its client is greeted, and misses nothing in between.
        """
        self.flush()
        self._greet_at = len(self._frames)
        self._held = True

    def open(self, greeting: F) -> None:
        """Let frames out, `greeting` before the held ones."""
        if self.closed:
            return
        self._unshare()
        self._frames.insert(self._greet_at, greeting)
        self._bytes += len(greeting)
        self._held = False
        self._schedule()

    def drop_held(self) -> None:
        """Drop the held frames, and let later ones out: the client is not greeted, and told why."""
        self._unshare()
        dropped = self._frames[self._greet_at :]
        del self._frames[self._greet_at :]
        self._bytes -= sum(map(len, dropped))
        self._held = False
        self._trace.ended(self.owner, dropped)
        self._schedule()

    def pause(self, buffered: int = 0) -> None:
        """Let frames wait here: the peer does not keep up, and the sink's buffer has `buffered` bytes."""
        self._paused = True
        self._buffered = buffered
        self._trace.paused(self.owner)

    def resume(self) -> None:
        """Go on: the peer reads again."""
        self._paused = False
        self._buffered = 0
        self._trace.resumed(self.owner)
        self._schedule()

    def flush(self) -> None:
        """Write everything that waits, unless it is held or paused."""
        self._scheduled = False
        frames = self._frames
        if not frames or self._held or self._paused:
            return
        self._frames, self._shared = _NOTHING, True
        self._bytes = 0
        self._write(frames)

    def close(self, code: int, reason: str) -> None:
        """Write what waits if the peer reads, then close. Held frames and later ones are dropped."""
        if self.closed:
            return
        self._flush_scheduler.hand_out()
        self.closed = True
        if self._held:
            self.drop_held()
        try:
            self.flush()
        finally:
            self.abandon()
            self._sink.close(code, reason)

    def abandon(self) -> None:
        """Drop everything: the sink is gone."""
        self.closed = True
        self._trace.ended(self.owner, self._frames, self._buffered)
        self._frames, self._shared = _NOTHING, True
        self._bytes = 0  # callers that wait for room need not wait longer

    def _unshare(self) -> None:
        if self._shared:
            self._frames, self._shared = self._frames.copy(), False

    def _schedule(self) -> None:
        if self._frames and not (self._scheduled or self._held or self._paused or self.closed):
            self._scheduled = True
            self._flush_scheduler.add(self)


class Outboxes:
    """Make the outboxes of a replica's connections."""

    def __init__(self, flush_scheduler: FlushScheduler, limit_bytes: int, trace: Trace = NO_TRACE) -> None:
        self._flush_scheduler = flush_scheduler
        self._limit_bytes = limit_bytes
        self.trace = trace

    def new(self, sink: Sink[F]) -> Outbox[F]:
        """Return the outbox of a new connection, whose frames go to `sink`."""
        return Outbox(sink, self._flush_scheduler, self._limit_bytes, self.trace)

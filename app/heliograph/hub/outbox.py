"""What waits to be written to one connection, and the turn that writes it.

Nothing is written while messages are handed out. All that one turn of the loop brings to a connection goes out in
one write at the turn's end: under light load that is one message at once, under heavy load batches grow by
themselves. What very many get goes round them in slices, and whatever else the loop has to do comes in between. A
connection whose peer does not read is paused; it costs the others nothing, and is over when what waits for it passes
the limit. More than that in one event-loop iteration is written before its end: only what is not read counts.
"""

import logging
from collections.abc import Callable
from typing import Any, Generic

from heliograph.hub.frames import F, Sink
from heliograph.protocol.codes import CloseCode

logger = logging.getLogger(__name__)

_NOTHING: list[Any] = []  # of every outbox that is empty; shared, so nobody changes it
DRAINED_BYTES = 65_536  # whoever is told much at once is told more when no more than this waits
MANY = 64  # more outboxes than that stand in the queue
SLICE = 32  # of those are written in a row, in a tenth or two of a millisecond


class FlushScheduler:
    """The outboxes that this turn of the loop has filled, and the queue of those that very many share something with.

    The queue is written in slices, one in each turn, while others are written to at their turn's end. Whoever is
    filled again after its own slice goes to the end of the queue: so it is gone round, and each write takes all that
    has come since the last. Nobody stands in it twice.

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
        """Have `hand_out` called once, at the turn's end: it fills outboxes."""
        self._hand_out = hand_out
        self._schedule_end()

    def add(self, outbox: "Outbox[Any]") -> None:
        """Have it written to at the turn's end."""
        self._filled.append(outbox)
        self._schedule_end()

    def enqueue(self, outbox: "Outbox[Any]") -> None:
        """Have it written to after those that are in the queue, unless it is one of them."""
        if not outbox.queued:
            outbox.queued = True
            self._queue.append(outbox)
            self._schedule_end()

    def hand_out(self) -> None:
        """Fill the outboxes now with what is meant for them."""
        hand_out, self._hand_out = self._hand_out, None
        if hand_out is not None:
            hand_out()

    def end(self) -> None:
        """Write what waits, one write for each connection."""
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
        """The loop has looked for what else there is to do, and does that before the next slice."""
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

    What the sink could not get rid of before it paused counts too.
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
        "_write",
        "closed",
        "queued",
    )

    def __init__(self, sink: Sink[F], flush_scheduler: FlushScheduler, limit_bytes: int) -> None:
        self._sink = sink
        self._write = sink.write
        self._flush_scheduler = flush_scheduler
        self._limit_bytes = limit_bytes
        self._frames: list[F] = _NOTHING
        self._shared = True  # that list is others' too, and is copied before it is changed
        self._bytes = 0
        self._buffered = 0  # what the sink itself keeps while it is paused
        self._held = False  # the greeting has not been said yet
        self._greet_at = 0  # how many frames were queued before it was held back
        self._paused = False  # the peer does not read
        self._scheduled = False  # to be written to at the turn's end
        self.queued = False  # it stands in the turn's queue, which says so
        self.closed = False  # True once nothing more goes out

    @property
    def is_drained(self) -> bool:
        """True if the peer has read nearly all that was meant for it, and may be handed more."""
        return self._bytes <= DRAINED_BYTES and 4 * self._bytes <= self._limit_bytes

    def offer(self, frame: F) -> CloseCode | None:
        """Queue a frame. The answer is why the connection must be closed now, or None."""
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
        """The same for some frames, of that size in all: a list which others may have too, and nobody changes.

        `to_many`: very many are offered them, so these wait in the turn's queue unless more comes for this one alone.
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
        """More waits than may. If the peer reads, one event-loop iteration has brought that much: write it now.

        What the sink cannot get rid of is what counts.
        """
        if not (self._held or self._paused):
            _flush([self])
        return CloseCode.SLOW if self._bytes + self._buffered > self._limit_bytes else None

    def hold(self) -> None:
        """Keep back what comes from now on, until `open`.

        So a connection can be registered before its client is told, and misses nothing in between.
        """
        self.flush()
        self._greet_at = len(self._frames)
        self._held = True

    def open(self, greeting: F) -> None:
        """Let frames out, `greeting` before what was held."""
        if self.closed:
            return
        self._unshare()
        self._frames.insert(self._greet_at, greeting)
        self._bytes += len(greeting)
        self._held = False
        self._schedule()

    def pause(self, buffered: int = 0) -> None:
        """The peer does not keep up, and the sink has so many bytes of it: let frames wait here."""
        self._paused = True
        self._buffered = buffered

    def resume(self) -> None:
        """The peer reads again."""
        self._paused = False
        self._buffered = 0
        self._schedule()

    def flush(self) -> None:
        """Write everything that waits, unless it has to wait longer."""
        self._scheduled = False
        frames = self._frames
        if not frames or self._held or self._paused:
            return
        self._frames, self._shared = _NOTHING, True
        self._bytes = 0
        self._write(frames)

    def close(self, code: CloseCode, reason: str) -> None:
        """Write what waits if the peer reads, then say goodbye. Whatever is held or is offered later goes nowhere."""
        if self.closed:
            return
        self._flush_scheduler.hand_out()
        self.closed = True
        if self._held:
            # The client was never greeted: nothing that was kept back for it is its to see.
            self._unshare()
            del self._frames[self._greet_at :]
            self._held = False
        try:
            self.flush()
        finally:
            self.abandon()
            self._sink.close(code, reason)

    def abandon(self) -> None:
        """The sink is gone: nothing more goes out."""
        self.closed = True
        self._frames, self._shared = _NOTHING, True
        self._bytes = 0  # whoever waits for room need not wait longer

    def _unshare(self) -> None:
        if self._shared:
            self._frames, self._shared = self._frames.copy(), False

    def _schedule(self) -> None:
        if self._frames and not (self._scheduled or self._held or self._paused or self.closed):
            self._scheduled = True
            self._flush_scheduler.add(self)

"""A `logging.Handler` that publishes to `logs:<project_id>` and never blocks the program that logs.

    logging.getLogger().addHandler(HeliographHandler(101))

Lines wait in a bounded queue for one thread, which publishes them in batches. If the queue was full, a line on the
channel says how many are missing there. At its end the program waits for the queue, but not for long, and reports
lost lines on standard error.

The handler never harms its program. If it cannot work (for example without Redis), it says why on standard error,
once, and publishes nothing. `HELIOGRAPH_LOGGING=off` switches it off, for tests and builds.
"""

import atexit
import logging
import threading
import time
from collections import deque
from multiprocessing import util
from typing import Final, NamedTuple

from heliograph.client.drafts import as_line
from heliograph.client.environment import logging_is_on
from heliograph.client.forks import renew_in_children
from heliograph.client.output import say
from heliograph.client.publisher import Publisher
from heliograph.errors import HeliographError
from heliograph.protocol.identity import check_channel

__all__ = ["HeliographHandler"]

BATCH: Final = 200  # lines in one round trip
DEADLINE_S: Final = 60.0  # how long a batch is tried before it is counted as lost


class Line(NamedTuple):
    """`tells_of`: how many missing lines this one reports; 0 for a line that the program has logged."""

    text: str
    stream: str
    tells_of: int = 0


class _Sender(threading.Thread):
    """The thread of a handler. It must not publish what it logs itself (or what the Redis client logs in it)."""


class HeliographHandler(logging.Handler):
    """Publish records as lines: from WARNING up on the stream `stderr`, the others on `stdout`.

    A record of several lines (a traceback) becomes several lines.
    """

    def __init__(
        self,
        project_id: str | int,
        publisher: Publisher | None = None,
        *,
        level: int | str = logging.NOTSET,
        capacity: int = 10_000,
        flush_timeout_s: float = 2.0,
    ) -> None:
        """Start nothing yet: the thread and the connection begin with the first record.

        Args:
            project_id: the lines go to `logs:<project_id>`.
            publisher: the caller closes it; by default one with the settings of the environment.
            capacity: how many lines may wait. Further ones are dropped, and counted.
            flush_timeout_s: how long `flush`, and so the end of the program, waits at most.
        """
        super().__init__(level)
        self._project_id = project_id
        self._capacity = capacity
        self._flush_timeout_s = flush_timeout_s
        self._owns_publisher = publisher is None
        self._publisher = self._usable(publisher)
        self._begin()
        renew_in_children(self)
        util.register_after_fork(self, _close_at_the_end)

    def _usable(self, publisher: Publisher | None) -> Publisher | None:
        """Return what to publish with; None if publishing is switched off or impossible."""
        try:
            if not logging_is_on():
                return None
            check_channel(f"logs:{self._project_id}")
            return publisher or Publisher()
        except HeliographError as error:
            advice = "HELIOGRAPH_LOGGING=off says that this is meant"
            say(f"what is logged is not published on logs:{self._project_id}: {error} ({advice})")
            return None

    def _begin(self) -> None:
        """Start empty in a new process, without a thread."""
        self._closed = self._publisher is None
        self._changed = threading.Condition()
        self._lines: deque[Line] = deque()
        self._dropped = 0  # since the last line that was accepted
        self._sending: list[Line] = []  # lines that the thread has taken out and not finished
        self._taken = 0  # lines logged
        self._waited_for = -1  # the value of `_taken` when `flush` gave up last
        self._lost = 0  # lines that will never be published
        self._reason = ""  # why the last batch was lost
        self._sender: _Sender | None = None

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        was_closed = self._closed
        self._begin()
        self._closed = was_closed

    # -- called by programs

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(threading.current_thread(), _Sender) or self._closed:
            return
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - whatever the program's own __str__ and formatters raise
            self.handleError(record)
            text = f"(a record of {record.name!r} that cannot be formatted: {type(error).__name__})"
        stream = "stderr" if record.levelno >= logging.WARNING else "stdout"
        self._take([Line(as_line(line), stream) for line in text.splitlines() or [""]])

    def flush(self) -> None:
        """Wait until all earlier records are published or lost, at most `flush_timeout_s`."""
        if self._closed or isinstance(threading.current_thread(), _Sender):
            return
        try:
            with self._changed:
                taken = self._taken
                if not self._changed.wait_for(self._is_idle, self._flush_timeout_s):
                    self._waited_for = taken
        except KeyboardInterrupt:
            self._waited_for = self._taken
            if not _is_ending:
                raise  # at the end of the program it would keep `logging` from flushing other handlers

    def close(self) -> None:
        """Flush, and stop. `logging` calls this when the program ends. May be called twice."""
        if not self._closed:
            if self._waited_for != self._taken:  # otherwise `flush` has just waited for these, in vain
                self.flush()
            with self._changed:
                self._closed = True
                self._lost += sum(not line.tells_of for line in (*self._sending, *self._lines))
                self._changed.notify_all()
            if self._owns_publisher and self._publisher is not None:
                self._publisher.close()
            if self._lost:
                lines = "1 line" if self._lost == 1 else f"{self._lost} lines"
                why = self._reason or "Redis did not take them in time"
                say(f"{lines} of what was logged could not be published on logs:{self._project_id}: {why}")
        super().close()

    # -- the queue

    def _is_idle(self) -> bool:
        return not (self._lines or self._sending or self._dropped) or self._sender is None

    def _take(self, lines: list[Line]) -> None:
        with self._changed:
            self._taken += len(lines)
            if len(self._lines) + len(lines) > self._capacity:
                self._dropped += len(lines)
                self._lost += len(lines)
                self._reason = "logged faster than published"
            else:
                self._note_dropped()
                self._lines.extend(lines)
            if self._sender is None:
                self._start()
            self._changed.notify_all()

    def _note_dropped(self) -> None:
        if self._dropped:
            lines = "1 line" if self._dropped == 1 else f"{self._dropped} lines"
            text = f"… {lines} dropped here: logged faster than published"
            self._lines.append(Line(text, "stderr", self._dropped))
            self._dropped = 0

    def _start(self) -> None:
        sender = _Sender(target=self._send_loop, name="heliograph-logging", daemon=True)
        try:
            sender.start()
        except RuntimeError:
            return  # the program is ending
        self._sender = sender

    # -- the thread

    def _send_loop(self) -> None:
        while (batch := self._next_batch()) is not None:
            began = time.monotonic()
            lost: list[Line] = []
            try:
                assert self._publisher is not None  # noqa: S101 - without one nothing is taken
                lines = [(line.text, line.stream) for line in batch]
                self._publisher.log_many(self._project_id, lines, deadline_s=DEADLINE_S)
            except Exception as error:  # noqa: BLE001 - the handler outlives whatever is wrong with one batch
                lost = batch  # reported on the channel as soon as that works
                self._reason = str(error)
            with self._changed:
                if self._closed:
                    return  # the batch in hand is counted as lost
                self._sending = []
                self._dropped += sum(line.tells_of or 1 for line in lost)
                self._lost += sum(not line.tells_of for line in lost)
                self._changed.notify_all()
                if lost:
                    # It may have been refused at once: the next attempt need not come sooner than after a time-out.
                    self._changed.wait_for(lambda: self._closed, max(0.0, 1 - (time.monotonic() - began)))

    def _next_batch(self) -> list[Line] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._dropped or self._closed)
            if self._closed:
                return None
            if len(self._lines) < BATCH:
                self._note_dropped()
            batch = [self._lines.popleft() for _ in range(min(BATCH, len(self._lines)))]
            self._sending = batch
            return batch


def _close_at_the_end(handler: HeliographHandler) -> None:
    """Close the handler in a child of `multiprocessing`, which ends without `logging.shutdown`."""
    util.Finalize(None, handler.close, exitpriority=1)


_is_ending = False  # whether the program is ending


def _note_the_end() -> None:
    global _is_ending
    _is_ending = True


atexit.register(_note_the_end)  # before `logging` flushes and closes its handlers

"""A `logging.Handler` that publishes to `logs:<project_id>` and never blocks the program that logs.

    logging.getLogger().addHandler(HeliographHandler(101))

Lines wait in a bounded queue for one thread, which publishes them in batches. Where the queue was full, the stream
says how many lines are missing. What is in the queue at the program's end is waited for, but not for long.
"""

import logging
import os
import threading
import time
from collections import deque
from typing import Final

from app.errors import HeliographError
from app.publish.publisher import Publisher

__all__ = ["HeliographHandler"]

BATCH: Final = 200  # lines in one round trip
DEADLINE_S: Final = 60.0  # for how long a batch is tried before it is given up, and counted

Line = tuple[str, str]  # text, stream


class _Sender(threading.Thread):
    """The thread of a handler. What is logged in it (by Redis' client, by us) must not be published by it."""


class HeliographHandler(logging.Handler):
    """Publishes records as lines: those from WARNING up on the stream `stderr`, the others on `stdout`.

    A record of several lines (a traceback) becomes so many lines.
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
        """Starts nothing: the thread and the connection come with the first record.

        Args:
            project_id: the lines go to `logs:<project_id>`.
            publisher: stays the caller's to close; without it, one as the environment says.
            capacity: lines that may wait. What comes when so many do is dropped, and counted.
            flush_timeout_s: how long `flush` waits at the most, and so the end of the program.

        Raises:
            BadSetting: no publisher was given, and the environment does not say where Redis is.
        """
        super().__init__(level)
        self._project_id = project_id
        self._publisher = publisher or Publisher()
        self._owns_publisher = publisher is None
        self._capacity = capacity
        self._flush_timeout_s = flush_timeout_s
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """In a new process nobody waits, and no thread runs."""
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._lines: deque[Line] = deque()
        self._dropped = 0  # since the last line that was taken
        self._sending = 0  # lines that the thread has taken out, and not dealt with
        self._sender: _Sender | None = None

    # -- what programs call

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(threading.current_thread(), _Sender) or self._closed:
            return
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - whatever the program's own __str__ and formatters raise
            self.handleError(record)
            text = f"(a record of {record.name!r} that cannot be formatted: {type(error).__name__})"
        stream = "stderr" if record.levelno >= logging.WARNING else "stdout"
        self._take([(line, stream) for line in text.splitlines() or [""]])

    def flush(self) -> None:
        """Wait until all that was logged before is published or given up; no longer than `flush_timeout_s`."""
        if self._pid != os.getpid() or isinstance(threading.current_thread(), _Sender):
            return
        with self._changed:
            self._changed.wait_for(self._is_idle, self._flush_timeout_s)

    def close(self) -> None:
        """Flush, and stop. `logging` calls this when the program ends. May be called twice."""
        if not self._closed:
            self.flush()
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            if self._owns_publisher:
                self._publisher.close()
        super().close()

    # -- the queue

    def _is_idle(self) -> bool:
        return not (self._lines or self._sending or self._dropped) or self._sender is None

    def _take(self, lines: list[Line]) -> None:
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            if len(self._lines) + len(lines) > self._capacity:
                self._dropped += len(lines)
            else:
                self._note_dropped()
                self._lines.extend(lines)
            if self._sender is None:
                self._start()
            self._changed.notify_all()

    def _note_dropped(self) -> None:
        if self._dropped:
            lines = "1 line" if self._dropped == 1 else f"{self._dropped} lines"
            self._lines.append((f"… {lines} dropped here: logged faster than published", "stderr"))
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
            try:
                self._publisher.log_many(self._project_id, batch, deadline_s=DEADLINE_S)
                lost = 0
            except HeliographError:
                lost = len(batch)  # said in the stream, as soon as there is one
            with self._changed:
                self._sending = 0
                self._dropped += lost
                self._changed.notify_all()
                if lost and not self._closed:
                    # Refused at once, perhaps: the next try need not come faster than it would after a time-out.
                    self._changed.wait_for(lambda: self._closed, max(0.0, 1 - (time.monotonic() - began)))

    def _next_batch(self) -> list[Line] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._dropped or self._closed)
            if self._closed:
                return None
            if len(self._lines) < BATCH:
                self._note_dropped()
            batch = [self._lines.popleft() for _ in range(min(BATCH, len(self._lines)))]
            self._sending = len(batch)
            return batch

"""Send a program's output from a thread of its own, so that the program never waits for Redis."""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from heliograph.client.forks import renew_in_children
from heliograph.client.output import say
from heliograph.errors import HeliographError, PublishError

MOST_WAITING: Final = 50_000  # publications
MOST_WAITING_CHARACTERS: Final = 32 * 1024 * 1024
RETRY_DELAYS_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)  # then always the last

Data = Mapping[str, object]
Send = Callable[[Data, str], object]


class _Item(NamedTuple):
    data: Data
    size: int
    lines: int  # how many lines are lost if it is dropped


class Feed:
    """Take publications for one channel without waiting, and send them in order, in the background.

    `send(data, idempotency_key)` publishes; it may block, and is called from one thread only. While it raises
    PublishError, the feed retries the same publication with the same key, so that it is published once. Lines that do
    not fit meanwhile are dropped, oldest first (the end of a job's output says most), and `on_drop(n)` makes the
    publication that takes the place of `n` missing lines.
    """

    def __init__(
        self,
        send: Send,
        on_drop: Callable[[int], Data],
        *,
        most_waiting: int = MOST_WAITING,
        say: Callable[[str], None] = say,
    ) -> None:
        self._send = send
        self._on_drop = on_drop
        self._most_waiting = most_waiting
        self._say = say
        self._last_success = 0.0  # monotonic
        self._away = False  # the last attempt failed
        self.reason = ""  # why the last attempt failed
        self._is_started = False
        self._begin()
        renew_in_children(self)

    def _begin(self) -> None:
        """Start empty in a new process, without a thread: the parent sends what was waiting there."""
        self._waiting: deque[_Item] = deque()
        self._characters = 0
        self._gap = 0  # dropped lines that no publication has reported yet
        self._changed = threading.Condition()
        self._closing = False
        self._given_up = threading.Event()
        self._thread: threading.Thread | None = None
        self._key = secrets.token_hex(8)
        self._sent = 0
        self._in_flight = 0  # lines in the publication that is being sent
        self._finished = False
        self.dropped = 0  # lines that will never arrive

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`. The thread starts with the first offer, because few children publish."""
        self._begin()

    def start(self) -> None:
        self._is_started = True
        if self._thread is None:
            # A daemon: the program's end does not depend on Redis. `close` is what waits.
            self._thread = threading.Thread(target=self._run, name="heliograph-feed", daemon=True)
            self._thread.start()

    def offer(self, data: Data, *, size: int = 0, lines: int = 1) -> None:
        """Take one publication. Return at once, whatever Redis does."""
        if self._is_started and self._thread is None:
            self.start()
        with self._changed:
            self._waiting.append(_Item(data, size, lines))
            self._characters += size
            while len(self._waiting) > self._most_waiting or self._characters > MOST_WAITING_CHARACTERS:
                oldest = self._waiting.popleft()
                self._characters -= oldest.size
                self._gap += oldest.lines
                self.dropped += oldest.lines
            self._changed.notify()

    def close(self, patience_s: float) -> int:
        """Send what waits, then end; give up after `patience_s` without success. Return how many lines are lost."""
        began = time.monotonic()
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            while self._thread.is_alive():
                left = max(self._last_success, began) + patience_s - time.monotonic()
                if left <= 0:
                    break
                self._thread.join(min(left, 0.1))
        self._given_up.set()
        with self._changed:
            self.dropped += sum(item.lines for item in self._waiting)
            self._waiting.clear()
            self._characters = 0
            self.dropped += self._in_flight
            self._in_flight = 0
        return self.dropped

    @property
    def finished(self) -> bool:
        """Return whether everything that was offered has been sent or dropped."""
        return self._finished

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._deliver(item)
            self._finished = not self._given_up.is_set()
        except Exception as error:  # noqa: BLE001 - the program that prints must not notice
            self.reason = f"{type(error).__name__}: {error}"
            self._say(f"nothing more is published: {self.reason}")

    def _next(self) -> _Item | None:
        with self._changed:
            while not (self._waiting or self._gap or self._closing):
                self._changed.wait()
            if self._given_up.is_set():
                return None
            if self._gap:
                gap, self._gap = self._gap, 0
                return _Item(self._on_drop(gap), 0, 0)
            if not self._waiting:
                return None
            item = self._waiting.popleft()
            self._characters -= item.size
            self._in_flight = item.lines
            return item

    def _deliver(self, item: _Item) -> None:
        self._sent += 1
        key = f"{self._key}-{self._sent}"
        attempt = 0
        while True:
            try:
                self._send(item.data, key)
            except PublishError as error:
                self._failed(error)
                delay_s = RETRY_DELAYS_S[min(attempt, len(RETRY_DELAYS_S) - 1)]
                attempt += 1
                if self._given_up.wait(delay_s):
                    return
            except HeliographError as error:
                self._refused(item, error)
                return
            else:
                self._succeeded()
                return

    def _succeeded(self) -> None:
        self._last_success = time.monotonic()
        self._in_flight = 0
        if self._away:
            self._away = False
            self._say("Redis can be reached again; what was kept is sent now")

    def _failed(self, error: PublishError) -> None:
        self.reason = error.reason
        if not self._away:
            self._away = True
            self._say(f"{error.reason}; the output is kept and sent later")

    def _refused(self, item: _Item, error: HeliographError) -> None:
        """Drop a publication that the server will refuse on every attempt."""
        with self._changed:
            self.dropped += item.lines
            self._gap += item.lines
            self._in_flight = 0
        if self.reason != str(error):
            self.reason = str(error)
            self._say(f"not published: {error}")

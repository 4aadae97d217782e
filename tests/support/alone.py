"""Tests side by side in several processes, but those marked `alone` with no other test beside them."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """Who may run now, of all processes that name the same directory: one test that wants to be alone, or any others.

    Each test takes the queue's lock before the other one. So a test that wants to be alone waits for those that run,
    and not for any that would begin meanwhile. The locks end with their process.
    """

    def __init__(self, directory: Path) -> None:
        self._queue = directory / "turns.queue"
        self._running = directory / "turns.running"

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        with self._running.open("a") as running:
            with self._queue.open("a") as queue:
                fcntl.flock(queue, fcntl.LOCK_EX)
                fcntl.flock(running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

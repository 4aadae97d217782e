"""Tests side by side in several processes, but those marked `alone` with no other test beside them."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """Who may run now, of all processes that name the same directory: one test that wants to be alone, or any others.

    A test that wants to be alone closes the door first: it waits for those that run, not for any that would begin
    meanwhile. The locks end with their process.
    """

    def __init__(self, directory: Path) -> None:
        self._door = directory / "turns.door"
        self._room = directory / "turns.room"

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        with self._room.open("a") as room:
            with self._door.open("a") as door:
                fcntl.flock(door, fcntl.LOCK_EX)
                fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

"""Deadlines with the same delay for many objects, and one timer for all of them."""

import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

GRAIN_S = 0.05  # deadlines within this time are handled together, so that the process wakes up once


class Loop(Protocol):
    """The methods of an event loop that are used here."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> object: ...


class Deadlines(Generic[_T]):
    """Call `due` with each object `delay_s` after it was put in (or up to `GRAIN_S` later), unless it was taken out.

    The delay is the same for all, so objects are due in the order in which they were put in. That needs no heap, and
    an entry in a dictionary instead of a timer for each object.
    """

    def __init__(self, loop: Loop, delay_s: float, due: Callable[[_T], object]) -> None:
        self._loop = loop
        self._delay_s = delay_s
        self._due = due
        self._times: dict[_T, float] = {}  # in the order in which they are due
        self._is_waiting = False

    def __len__(self) -> int:
        return len(self._times)

    def put(self, thing: _T) -> None:
        """Start the object's delay; if it was put in before, start it again."""
        self._times.pop(thing, None)
        self._times[thing] = self._loop.time() + self._delay_s
        if not self._is_waiting:
            self._is_waiting = True
            self._loop.call_later(self._delay_s, self._look)

    def take_out(self, thing: _T) -> None:
        """Forget the object, if it was put in."""
        self._times.pop(thing, None)

    def _look(self) -> None:
        """Handle the objects that are due, and set the timer for the next."""
        self._is_waiting = False
        now = self._loop.time()
        due = []
        for thing, when in self._times.items():
            if when > now:
                break
            due.append(thing)
        for thing in due:
            del self._times[thing]
        for thing in due:
            try:
                self._due(thing)
            except Exception:  # the others are not in the dictionary any more
                logger.exception("a deadline could not be handled")
        if self._times and not self._is_waiting:
            self._is_waiting = True
            self._loop.call_later(max(next(iter(self._times.values())) - now, GRAIN_S), self._look)

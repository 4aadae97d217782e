"""Many things that are due equally long after they were put in, with one timer for all of them."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

_T = TypeVar("_T")

GRAIN_S = 0.05  # what is due within this is dealt with together, so that it wakes the process up once


class Loop(Protocol):
    """What is needed of an event loop."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> object: ...


class Deadlines(Generic[_T]):
    """Calls `due` with each thing `delay_s` after it was put in (or up to `GRAIN_S` later), unless it was taken out.

    As the delay is the same for all, the first that was put in is the first that is due: no heap, and for each thing
    an entry in a dictionary instead of a timer.
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
        """Begin to wait; if it is in there already, from now on."""
        self._times.pop(thing, None)
        self._times[thing] = self._loop.time() + self._delay_s
        if not self._is_waiting:
            self._is_waiting = True
            self._loop.call_later(self._delay_s, self._look)

    def take_out(self, thing: _T) -> None:
        """Forget it, if it is in there."""
        self._times.pop(thing, None)

    def _look(self) -> None:
        """Deal with what is due, and come again when the next thing is."""
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
            self._due(thing)
        if self._times and not self._is_waiting:
            self._is_waiting = True
            self._loop.call_later(max(next(iter(self._times.values())) - now, GRAIN_S), self._look)

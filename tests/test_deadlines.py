"""Many things due after the same delay: against timers that are one each."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.deadlines import GRAIN_S, Deadlines

DELAY_S = 10.0


class Loop:
    """A clock that the test moves, and how many timers were ever running at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.most = 0

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.timers.append((self.now + delay, callback))
        self.most = max(self.most, len(self.timers))

    def move_to(self, now: float) -> None:
        while self.timers and min(self.timers, key=lambda timer: timer[0])[0] <= now:
            timer = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
        self.now = now


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 5)),
            st.tuples(st.just("take_out"), st.integers(0, 5)),
            st.tuples(st.just("move"), st.integers(1, 15)),
        ),
        max_size=60,
    )
)
def test_each_is_due_once_and_in_time(steps: list[tuple[str, int]]) -> None:
    """Fails if something is forgotten, comes twice, early or late, or if there is more than one timer."""
    loop = Loop()
    seen: list[tuple[float, int]] = []
    expected: list[tuple[float, int]] = []
    waiting: dict[int, float] = {}
    deadlines = Deadlines[int](loop, DELAY_S, lambda thing: seen.append((loop.now, thing)))
    for step, value in steps:
        if step == "put":
            deadlines.put(value)
            waiting.pop(value, None)
            waiting[value] = loop.now + DELAY_S
        elif step == "take_out":
            deadlines.take_out(value)
            waiting.pop(value, None)
        else:
            until = loop.now + value
            due = [(when, thing) for thing, when in waiting.items() if when <= until]
            expected += due
            for _, thing in due:
                del waiting[thing]
            loop.move_to(until)
        assert seen == expected
        assert len(deadlines) == len(waiting)
    assert loop.most <= 1


def test_what_is_due_may_be_put_in_again_at_once() -> None:
    """Fails if a ping that leads to the next one ends the row, or never lets go of the loop."""
    loop = Loop()
    seen: list[float] = []

    def due(thing: str) -> None:
        seen.append(loop.now)
        deadlines.put(thing)

    deadlines = Deadlines[str](loop, DELAY_S, due)
    deadlines.put("x")
    loop.move_to(35)
    assert seen == [10, 20, 30]


def test_one_that_fails_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    """Fails if an error of one socket has the others go without their pings."""
    loop = Loop()
    seen: list[str] = []

    def due(thing: str) -> None:
        if thing == "broken":
            raise RuntimeError(thing)
        seen.append(thing)

    deadlines = Deadlines[str](loop, DELAY_S, due)
    for thing in ("first", "broken", "second"):
        deadlines.put(thing)
    loop.move_to(5)
    deadlines.put("later")
    loop.move_to(20)
    assert seen == ["first", "second", "later"]
    assert "RuntimeError: broken" in caplog.text


def test_what_is_due_at_nearly_the_same_time_is_dealt_with_together() -> None:
    """Fails if each of many idle sockets wakes the process up, or if one waits long for that to be saved."""
    loop = Loop()
    late: list[float] = []
    looks: set[float] = set()

    def due(when: float) -> None:
        late.append(loop.now - when)
        looks.add(loop.now)

    deadlines = Deadlines[float](loop, DELAY_S, due)
    for number in range(1000):
        loop.move_to(number / 1000)
        deadlines.put(loop.now + DELAY_S)
    loop.move_to(2 * DELAY_S)
    assert len(late) == 1000
    assert min(late) >= 0
    assert max(late) <= GRAIN_S + 1e-9
    assert len(looks) <= 1 / GRAIN_S + 2

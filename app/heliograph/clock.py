"""Time, passed to every part that needs it, so that tests need not wait."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for people, monotonic time for measuring; both in seconds."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class Timestamps:
    """The present time as `iso8601` writes it, computed once a millisecond."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now
        self._second = -1
        self._begin = self._end = 0.0  # of the millisecond that `_text` holds
        self._up_to_the_second = self._text = ""

    def __call__(self) -> str:
        now = self._now()
        if not self._begin <= now < self._end:
            millisecond = int(now * 1000)
            second, fraction = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._up_to_the_second = iso8601(second).removesuffix("000Z")
            self._begin, self._end = millisecond / 1000, (millisecond + 1) / 1000
            self._text = f"{self._up_to_the_second}{fraction:03d}Z"
        return self._text


def iso8601(timestamp_s: float) -> str:
    """Return UTC with milliseconds, as JavaScript writes it: `2026-11-22T18:20:00.123Z`."""
    return datetime.fromtimestamp(timestamp_s, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def seconds_until(timestamp_s: float | None) -> int | None:
    """Return how many whole seconds are left until then, 0 if it has passed; None for never."""
    return None if timestamp_s is None else max(0, int(timestamp_s - time.time()))

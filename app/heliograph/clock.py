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
    """The present time as `iso8601` writes it, computed once a millisecond. Any number of threads may ask."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now
        # What belongs together is replaced in one step, for other threads.
        self._second = (-1, "")  # and its text without milliseconds
        self._millisecond = (0.0, 0.0, "")  # its begin, its end and its text

    def __call__(self) -> str:
        now = self._now()
        begin, end, text = self._millisecond
        if begin <= now < end:
            return text
        millisecond = int(now * 1000)
        second, fraction = divmod(millisecond, 1000)
        known, up_to_the_second = self._second
        if second != known:
            up_to_the_second = iso8601(second).removesuffix("000Z")
            self._second = second, up_to_the_second
        text = f"{up_to_the_second}{fraction:03d}Z"
        self._millisecond = millisecond / 1000, (millisecond + 1) / 1000, text
        return text


def iso8601(timestamp_s: float) -> str:
    """Return UTC with milliseconds, as JavaScript writes it: `2026-11-22T18:20:00.123Z`."""
    return datetime.fromtimestamp(timestamp_s, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def seconds_until(timestamp_s: float | None) -> int | None:
    """Return how many whole seconds are left until then, 0 if it has passed; None for never."""
    return None if timestamp_s is None else max(0, int(timestamp_s - time.time()))

"""Time, passed in wherever it is needed, so that tests need not wait for it."""

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
    """The present as `iso8601` writes it, worked out once for each millisecond."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = self._millisecond = -1
        self._up_to_the_second = self._text = ""

    def __call__(self) -> str:
        millisecond = int(self._clock.now() * 1000)
        if millisecond != self._millisecond:
            second, fraction = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._up_to_the_second = iso8601(second).removesuffix("000Z")
            self._millisecond = millisecond
            self._text = f"{self._up_to_the_second}{fraction:03d}Z"
        return self._text


def iso8601(timestamp_s: float) -> str:
    """UTC with milliseconds, as JavaScript writes it: `2026-11-22T18:20:00.123Z`."""
    return datetime.fromtimestamp(timestamp_s, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"

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

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def iso8601(timestamp_s: float) -> str:
    """UTC with milliseconds, as JavaScript writes it: `2026-11-22T18:20:00.123Z`."""
    return datetime.fromtimestamp(timestamp_s, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"

"""A circuit breaker: a backend that does not answer is left alone for a while, and its callers are told at once."""

from collections.abc import Callable
from typing import Final

FAILURES: Final = 10  # in a row, until calls stop
PAUSE_S: Final = 1.0  # until one call is let through again


class Circuit:
    """Count failures in a row; after FAILURES of them, let one call through every PAUSE_S until one succeeds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures = 0
        self._closed_until = 0.0  # for calls, once there were too many failures

    @property
    def is_open(self) -> bool:
        """Return whether calls are refused."""
        return self._failures >= FAILURES

    def admits(self) -> bool:
        """Return whether a call may be made now. If it is the trial of an open circuit, the next one must wait."""
        if not self.is_open:
            return True
        now = self._monotonic()
        if now < self._closed_until:
            return False
        self._closed_until = now + PAUSE_S
        return True

    def succeeded(self) -> bool:
        """Note an answer. Return whether it closed the circuit."""
        was_open, self._failures = self.is_open, 0
        return was_open

    def failed(self) -> bool:
        """Note a call without an answer. Return whether it opened the circuit."""
        self._failures += 1
        if self.is_open:
            self._closed_until = self._monotonic() + PAUSE_S
        return self._failures == FAILURES

"""The present, as people and clients read it."""

from heliograph.clock import Timestamps, iso8601
from tests.support.manual_clock import ManualClock


def test_timestamps_are_those_of_the_clock() -> None:
    """Fails if what is worked out once is said too long, or put together wrongly."""
    clock = ManualClock()
    timestamp = Timestamps(clock)
    for step_s in (0, 0.0004, 0.001, 0.25, 0.999, 1, 59.5, 3600, 86_400.017, -5):
        clock.advance(step_s)
        milliseconds = int(clock.now() * 1000)
        assert timestamp() == iso8601(milliseconds / 1000)

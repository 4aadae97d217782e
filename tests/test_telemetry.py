"""What a replica counts."""

import pytest

from heliograph.telemetry import Histogram, Telemetry


def test_two_replicas_in_one_process_count_apart() -> None:
    """Fails if counters live in the process and not in the replica."""
    one, two = Telemetry(), Telemetry()
    one.traffic["sse"].messages_in += 5
    one.repairs += 3
    one.loop_lag.observe(1)
    assert (two.messages_in, two.repairs, sum(two.loop_lag.counts)) == (0, 0, 0)


def test_transports_add_up() -> None:
    """Fails if a transport is left out of what a replica does in all."""
    telemetry = Telemetry()
    for number, traffic in enumerate(telemetry.traffic.values()):
        traffic.messages_in, traffic.messages_out = 10**number, 2 * 10**number
    assert (telemetry.messages_in, telemetry.messages_out) == (1111, 2222)


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [(0, [1, 0, 0]), (0.5, [1, 0, 0]), (0.6, [0, 1, 0]), (2, [0, 1, 0]), (2.1, [0, 0, 1])],
)
def test_a_bound_belongs_to_its_bucket(seconds: float, counts: list[int]) -> None:
    """Fails if `le` means anything but less or equal."""
    histogram = Histogram((0.5, 2))
    histogram.observe(seconds)
    assert histogram.counts == counts
    assert histogram.total_s == seconds

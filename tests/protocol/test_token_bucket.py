"""How much one connection may ask for. Time is passed in."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.protocol.token_bucket import TokenBucket


def test_a_burst_of_one_second_and_then_the_rate() -> None:
    """Fails if the burst is larger or smaller than one second's worth, or tokens do not come back at the rate."""
    bucket = TokenBucket(10, now=0.0)
    assert [bucket.take(0.0) for _ in range(11)] == [True] * 10 + [False]
    assert not bucket.take(0.09)
    assert bucket.take(0.11)
    assert not bucket.take(0.12)
    assert [bucket.take(100.0) for _ in range(11)] == [True] * 10 + [False]


def test_another_burst() -> None:
    """Fails if a burst cannot be larger than one second's worth, or grows beyond what it may be."""
    bucket = TokenBucket(10, now=0.0, most=25)
    assert [bucket.take(0.0) for _ in range(26)] == [True] * 25 + [False]
    assert [bucket.take(100.0) for _ in range(26)] == [True] * 25 + [False]


def test_zero_is_no_limit() -> None:
    """Fails if 0 refuses everything."""
    bucket = TokenBucket(0, now=0.0)
    assert all(bucket.take(0.0) for _ in range(10_000))


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_less_than_one_a_second_still_lets_one_through(rate: float) -> None:
    """Fails if a bucket can never hold a whole token: the connection could never say anything."""
    bucket = TokenBucket(rate, now=0.0)
    assert bucket.take(0.0)
    assert not bucket.take(0.9 / rate)
    assert bucket.take(1.1 / rate)


@settings(deadline=None)
@given(
    st.floats(0.1, 1000),
    st.lists(st.floats(0, 2), max_size=60),
)
def test_never_more_than_the_rate_and_one_burst(rate: float, gaps: list[float]) -> None:
    """Fails if some rhythm of asking gets more than a burst and the rate since then."""
    bucket, now, taken = TokenBucket(rate, now=0.0), 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now)
    assert taken <= max(rate, 1.0) + now * rate + 1e-6

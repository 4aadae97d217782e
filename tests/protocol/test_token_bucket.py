"""How much one connection may ask for. Time is passed in."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.protocol.token_bucket import Pace, Paces, TokenBucket


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


def test_a_pace_lets_a_burst_pass_and_then_so_much_a_second() -> None:
    """Fails if the burst is not free, what is beyond it too fast, or somebody waits for what is long done."""
    pace = Pace(rate=100, burst=200)
    assert [pace.take(100, 10.0) for _ in range(4)] == pytest.approx([0, 0, 1, 2])
    assert pace.take(100, 14.0) == 0
    assert not pace.is_idle(14.0)
    assert pace.is_idle(15.0)
    assert Pace(rate=0, burst=0).take(1e9, 0.0) == 0


def test_a_name_keeps_its_pace_until_it_is_idle() -> None:
    """Fails if who comes back at once may begin anew, or memory grows with every name."""
    paces = Paces(rate=1, burst=1)
    assert paces.of("al", 0.0) is paces.of("al", 0.0)
    paces.of("al", 0.0).take(100, 0.0)
    for n in range(10_000):
        paces.of(f"user-{n}", 50.0)
    assert paces.of("al", 50.0).take(1, 50.0) == pytest.approx(50)
    assert len(paces._by_name) < 4000

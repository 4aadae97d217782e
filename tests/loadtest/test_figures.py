"""Percentiles from buckets are close to those of the values themselves."""

import random

import pytest

from loadtest.figures import Histogram


def test_percentiles_are_at_most_three_percent_off() -> None:
    dice = random.Random(7)
    values = sorted(dice.lognormvariate(-6, 1.5) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for percent in (1, 50, 90, 99, 99.9):
        exact = values[max(0, round(len(values) * percent / 100) - 1)]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.03)
    assert histogram.percentile(100) == pytest.approx(values[-1], rel=0.03)
    assert histogram.longest == values[-1]


def test_nothing_measured_has_no_percentile() -> None:
    assert Histogram().percentile(50) is None


def test_no_duration_is_too_short() -> None:
    histogram = Histogram()
    histogram.add(0.0)
    histogram.add(-1e-9)
    assert histogram.percentile(50) == 0.0


def test_two_are_as_good_as_one() -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for number in range(100):
        (one if number % 2 else other).add(number / 1000)
        both.add(number / 1000)
    one.merge(other)
    assert (one.count, one.longest, one.percentile(90)) == (both.count, both.longest, both.percentile(90))

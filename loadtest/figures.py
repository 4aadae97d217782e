"""The measurements of each second."""

import math
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

STEPS = 24  # buckets for each doubling: a percentile is at most 3 % off
SMALLEST_S = 1e-6


class Histogram:
    """Durations in buckets that grow by 3 %."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[int(math.log2(max(seconds, SMALLEST_S) / SMALLEST_S) * STEPS)] += 1
        self.count += 1
        if seconds > self.longest:
            self.longest = seconds

    def merge(self, other: "Histogram") -> None:
        self.buckets.update(other.buckets)
        self.count += other.count
        self.longest = max(self.longest, other.longest)

    def percentile(self, percent: float) -> float | None:
        """In seconds; None if nothing was measured."""
        if not self.count:
            return None
        rank = math.ceil(self.count * percent / 100)
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                return float(min(self.longest, SMALLEST_S * 2 ** ((bucket + 0.5) / STEPS)))
        return self.longest


@dataclass
class Second:
    """One second of the run."""

    delivered: dict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))  # by scenario
    sent: int = 0
    sampled: bool = False  # a busy process may miss a second; the figures below are then unknown, not 0
    ending: bool = False  # users are leaving: this says nothing about what the cluster can carry
    connections: Counter[str] = field(default_factory=Counter)  # by replica
    users: int = 0
    lost: int = 0
    doubled: int = 0
    cpu_percent: float = 0.0  # of this process
    lag_s: float = 0.0  # how late a greenlet of this process was woken up, at worst; never unknown


class Figures:
    """Counts by second since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: dict[int, Second] = defaultdict(Second)
        self.connects = Histogram()
        self.lag = Histogram()
        self.returns = 0

    def now(self) -> Second:
        return self.seconds[int(time.monotonic() - self.started)]

    def delivered(self, scenario: str, seconds: float) -> None:
        self.now().delivered[scenario].add(seconds)

    def totals(self) -> dict[str, Histogram]:
        """By scenario, over the whole run."""
        totals: dict[str, Histogram] = defaultdict(Histogram)
        for second in self.seconds.values():
            for scenario, histogram in second.delivered.items():
                totals[scenario].merge(histogram)
        return dict(sorted(totals.items()))

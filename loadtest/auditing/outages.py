"""How long a channel took no publications, and how long answers took on the others meanwhile."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SLOW_S = 0.5  # an answer that takes longer counts as time in which the channel was unavailable


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to publish: from when until when, and whether it was acknowledged."""

    began: float
    ended: float
    succeeded: bool

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Outage:
    channel: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


Window = tuple[float, float]  # from when until when something was broken


def outages(channel: str, attempts: Iterable[Attempt]) -> list[Outage]:
    """Return the times in which the channel was unavailable.

    Such a time begins when somebody begins an attempt that fails, or is answered late, and ends with the first
    acknowledgement of an attempt that began later (or with the late answer). So it is as exact as the attempts are
    frequent. One that does not end by itself ends with the last answer.
    """
    found: list[Outage] = []
    in_order = sorted(attempts, key=lambda each: each.began)
    # From the back: when the earliest success of those that began at or after this one was acknowledged.
    next_success: list[float] = []
    earliest = max((each.ended for each in in_order), default=0.0)
    for each in reversed(in_order):
        if each.succeeded:
            earliest = min(earliest, each.ended)
        next_success.append(earliest)
    next_success.reverse()
    for each, success in zip(in_order, next_success, strict=True):
        if each.succeeded and each.seconds <= SLOW_S:
            continue
        ended = max(success, each.began)
        if found and each.began <= found[-1].ended:
            found[-1] = Outage(channel, found[-1].began, max(found[-1].ended, ended))
        else:
            found.append(Outage(channel, each.began, ended))
    return found


def percentiles(attempts: Iterable[Attempt], windows: Sequence[Window], percent: float) -> tuple[float, float]:
    """Return how long acknowledgements took: those of attempts that began in the windows, and the others. In s."""
    during: list[float] = []
    outside: list[float] = []
    for each in attempts:
        if each.succeeded:
            is_during = any(began <= each.began <= ended for began, ended in windows)
            (during if is_during else outside).append(each.seconds)
    return _percentile(during, percent), _percentile(outside, percent)


def _percentile(seconds: list[float], percent: float) -> float:
    return sorted(seconds)[math.ceil(len(seconds) * percent / 100) - 1] if seconds else 0.0

"""What was measured, a dictionary for each measurement, and the ways to look at many of them."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

from loadtest.bench.systems import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LABELS = {each.name: each.label for each in SYSTEMS}

Record = dict[str, Any]
Points = dict[str, dict[float, float]]  # of each system: x -> median of y


def selected(records: Iterable[Record], name: str, **wanted: object) -> list[Record]:
    return [
        each for each in records if each["name"] == name and all(each[key] == value for key, value in wanted.items())
    ]


def by_system(records: Iterable[Record]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = defaultdict(list)
    for each in records:
        grouped[each["system"]].append(each)
    return {name: grouped[name] for name in [each.name for each in SYSTEMS] if name in grouped}


def points_of(records: list[Record], key: str, value: Callable[[dict[str, Any]], float]) -> Points:
    points: Points = {}
    for name, mine in by_system(records).items():
        at: dict[float, list[float]] = defaultdict(list)
        for each in mine:
            if (y := value(each["figures"])) > 0:  # a system that is behind by seconds has no latency
                at[each[key]].append(y)
        points[name] = {x: median(values) for x, values in sorted(at.items())}
    return points

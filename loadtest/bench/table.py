"""Tables of the benchmark: a row for each system."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from loadtest.bench.records import LABELS, by_system

if TYPE_CHECKING:
    from loadtest.bench.records import Points, Record


def section(title: str, records: list[Record], columns: list[tuple[str, str, str]], about: str = "") -> str:
    """`columns`: what is above, which figure, how it is written. `about`: a sentence below the title."""
    if not records:
        return ""
    rows = []
    for name, mine in by_system(records).items():
        row = [LABELS.get(name, name)]
        for _, key, form in columns:
            values = [each["figures"][key] for each in mine if each["figures"][key] >= 0]
            if not values:
                row.append("–")  # it was behind by seconds
                continue
            spread = f" ({form.format(min(values))}–{form.format(max(values))})" if len(values) > 1 else ""
            row.append(form.format(median(values)) + spread)
        rows.append(row)
    text = f"{about}\n\n" if about else ""
    return f"### {title}\n\n{text}" + table(["", *(title for title, _, _ in columns)], rows)


def grid(title: str, points: Points, form: str) -> str:
    xs = sorted({x for each in points.values() for x in each})
    rows = [
        [LABELS.get(name, name), *(form.format(each[x]) if x in each else "" for x in xs)]
        for name, each in points.items()
    ]
    return table([title, *(f"{x:,g}" for x in xs)], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

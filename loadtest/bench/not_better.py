"""Where somebody else is ahead of Heliograph, said by the figures themselves."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from loadtest.bench.records import LABELS, by_system, selected

if TYPE_CHECKING:
    from loadtest.bench.records import Record

OWN = {"heliograph": "kept", "heliograph-ephemeral": "ephemeral"}


def not_better(records: list[Record]) -> str:
    lines = [_line(*each) for each in _compared(records)]
    return "### What is not better\n\n" + ("\n".join(filter(None, lines)) or "Nothing of what was measured here.")


def _compared(records: list[Record]) -> list[tuple[str, list[Record], str, bool]]:
    """What is compared: its name, the measurements, the figure in them, and whether more of it is better."""
    idle, channels = _largest(records, "idle", "subscribers"), _largest(records, "channels", "subscribers")
    connects, held = _largest(records, "connects", "before"), _largest(records, "held", "subscribers")
    saturated, steady = selected(records, "unicast", window=8), selected(records, "unicast", rate=2000)
    four = selected(records, "growth", subscribers=1000)
    ten = selected(records, "rate", rate=10)
    return [
        ("deliveries/s, four under way", four, "deliveries_per_s", True),
        ("CPU for each delivery, four under way", four, "cpu_us", False),
        ("deliveries/s, one under way", selected(records, "alone"), "deliveries_per_s", True),
        ("p50 at 10 messages a second", ten, "p50_us", False),
        ("p99 at 10 messages a second", ten, "p99_us", False),
        ("user to user, messages/s", saturated, "deliveries_per_s", True),
        ("user to user, CPU of the servers", saturated, "cpu_us", False),
        ("user to user, CPU of Redis", saturated, "redis_us", False),
        ("user to user, p50 at 2,000/s", steady, "p50_us", False),
        ("user to user, p99 at 2,000/s", steady, "p99_us", False),
        ("CPU for a message, with the most channels", channels, "cpu_us", False),
        (
            "CPU for a foreign message, shared",
            selected(records, "replicas", routing="shared", replicas=4),
            "foreign_us",
            False,
        ),
        ("memory for each connection", idle, "memory_kib", False),
        ("CPU while idle", idle, "idle_cpu", False),
        ("connects/s when many are connected", connects, "connects_per_s", True),
        ("p99 when one does not read", selected(records, "stall", stalled=1), "p99_us", False),
        ("how long the server is held", held, "held_ms", False),
        ("how long another's message waits meanwhile", held, "other_ms", False),
        ("until the last of very many is served", held, "all_served_ms", False),
    ]


def _line(title: str, records: list[Record], figure: str, more: bool) -> str:
    """Who is ahead of kept and of ephemeral; nothing if nobody is."""
    measured = {
        name: median(each["figures"][figure] for each in mine)
        for name, mine in by_system(records).items()
        if all(figure in each["figures"] for each in mine)
        and all(each["figures"][figure] >= 0 or figure == "foreign_us" for each in mine)  # no latency: far behind
    }
    ahead = {
        own: [
            LABELS.get(name, name)
            for name, value in measured.items()
            if name not in OWN and own in measured and (value > measured[own] if more else value < measured[own])
        ]
        for own in OWN
    }
    parts = [f"ahead of {OWN[own]}: {', '.join(names)}" for own, names in ahead.items() if names]
    if len(parts) == 2 and ahead["heliograph"] == ahead["heliograph-ephemeral"]:
        parts = [f"ahead of both: {', '.join(ahead['heliograph'])}"]
    return f"- {title}: {'; '.join(parts)}." if parts else ""


def _largest(records: list[Record], name: str, key: str) -> list[Record]:
    """Those of a part where the most are connected."""
    mine = selected(records, name)
    most = max((each[key] for each in mine), default=0)
    return selected(mine, name, **{key: most})

"""The result of a run, in figures and as a verdict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from loadtest.flood import compare, slowed_down
from loadtest.ledger import NAMED

if TYPE_CHECKING:
    from loadtest.figures import Histogram
    from loadtest.run import Run

# What each scenario measures, by the class of users that makes it.
MEASURES = {
    "PairUser": ("pairs kept", "pairs ephemeral"),
    "SubscriberUser": ("channels",),
    "SseUser": ("sse",),
    "ChurnUser": ("churn live", "churn missed"),
}
SETTLED_FROM = 0.9  # of the users: from here on the throughput counts


@dataclass(frozen=True)
class Summary:
    passed: bool
    url: str
    users: int
    seconds: float
    sent: int
    acknowledged: int
    unknown: int  # the sender left before it was answered
    delivered: int
    deliveries_per_second: float  # while at least nine tenths of the users were there
    sent_per_second: float
    connects: dict[str, Any]
    returns: int
    replicas: dict[str, dict[str, Any]]
    pairs: int
    pairs_on_two_replicas: int
    latency: dict[str, dict[str, Any]]  # ms, from the sender's stamp to the reader, by scenario
    answers: dict[str, dict[str, Any]]  # ms, until the sender was answered
    flood: dict[str, Any]  # what an attacker has done, and what it has cost the others; empty without one
    faults: dict[str, int]
    examples: dict[str, list[str]]
    generator: dict[str, float]

    @classmethod
    def of(cls, run: Run) -> Self:
        figures = run.figures
        totals = figures.totals()
        faults = {**run.ledger.faults(), **_unlike_what_was_meant(run, totals)}
        flood: dict[str, Any] = {}
        if run.flood is not None:
            p99_ms = compare(figures, run.flood.begins_at)
            faults["slowed down by the flood"] = slowed_down(p99_ms)
            faults["no flood"] = [] if p99_ms and run.flood.refused else ["nobody was attacked, or nothing refused"]
            flood = {**asdict(run.flood), "p99_ms": p99_ms}
        users = max((second.users for second in figures.seconds.values()), default=0)
        steady = [
            second
            for second in figures.seconds.values()
            if second.users >= SETTLED_FROM * users > 0 and not second.ending
        ]
        deliveries = sum(histogram.count for second in steady for histogram in second.delivered.values())
        sent = sum(second.sent for second in steady)
        cpu = [second.cpu_percent for second in steady if second.sampled]
        return cls(
            passed=not any(faults.values()),
            url=f"http://{run.target.host}:{run.target.port}",
            users=users,
            seconds=round(max(figures.seconds, default=0), 1),
            sent=sum(second.sent for second in figures.seconds.values()),
            acknowledged=sum(each.acknowledged for each in run.ledger.sent.values()),
            unknown=sum(len(each.unknown) for each in run.ledger.sent.values()),
            delivered=sum(histogram.count for histogram in totals.values()),
            deliveries_per_second=round(deliveries / max(1, len(steady)), 1),
            sent_per_second=round(sent / max(1, len(steady)), 1),
            connects=_milliseconds(figures.connects),
            returns=figures.returns,
            replicas={
                replica: {
                    "networks": len(networks),
                    "connects": run.welcomed[replica],
                    "most_connections": max(
                        (second.connections[replica] for second in figures.seconds.values()), default=0
                    ),
                }
                for replica, networks in sorted(run.sources.networks.items())
            },
            pairs=len(run.pairs),
            pairs_on_two_replicas=sum(_on_two_replicas(pair) for pair in run.pairs),
            latency={name: _milliseconds(histogram) for name, histogram in totals.items()},
            answers={name: _milliseconds(histogram) for name, histogram in sorted(run.acks.items())},
            flood=flood,
            faults={kind: len(found) for kind, found in faults.items()},
            examples={kind: found[:NAMED] for kind, found in faults.items() if found},
            generator={
                "cpu_percent": round(sum(cpu) / max(1, len(cpu)), 1),
                "lag_p99_ms": _ms(figures.lag.percentile(99)),
                "lag_worst_ms": _ms(figures.lag.longest),
            },
        )

    def json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def text(self) -> str:
        """For a terminal."""
        lines = [
            "",
            f"{self.users} users on {self.url} for {self.seconds:.0f} s",
            f"  sent {self.sent} ({self.sent_per_second}/s), acknowledged {self.acknowledged} "
            f"(for {self.unknown} the sender did not wait)",
            f"  delivered {self.delivered} ({self.deliveries_per_second}/s)",
            f"  came back with a cursor {self.returns} times",
            f"  pairs on two replicas: {self.pairs_on_two_replicas} of {self.pairs}",
            "",
            f"{'replica':<26}{'networks':>10}{'connects':>10}{'most open':>11}",
            *(
                f"  {name:<24}{each['networks']:>10}{each['connects']:>10}{each['most_connections']:>11}"
                for name, each in self.replicas.items()
            ),
            "",
            f"{'ms':<26}{'count':>10}{'p50':>10}{'p90':>10}{'p99':>10}{'longest':>10}",
            *(_row(name, each) for name, each in self.latency.items()),
            *(_row(f"answer: {name}", each) for name, each in self.answers.items()),
            _row("connect", self.connects),
            "",
            f"this process: CPU {self.generator['cpu_percent']:.0f} %, woken up late by "
            f"{self.generator['lag_p99_ms']} ms (p99), {self.generator['lag_worst_ms']} ms at worst",
            "",
        ]
        if self.flood:
            lines += [
                f"the flood: {self.flood['writes']} writes ({self.flood['megabytes']:.0f} MB),"
                f" {self.flood['refused']} refused, {self.flood['closed']} connections ended",
                *(
                    f"  {scenario:<24}p99 without it {before:.1f} ms, with it {during:.1f} ms"
                    for scenario, (before, during) in self.flood["p99_ms"].items()
                ),
                "",
            ]
        for kind, count in self.faults.items():
            lines.append(f"{kind:<36}{count:>8}")
            lines += [f"    {each}" for each in self.examples.get(kind, [])]
        lines += ["", "passed" if self.passed else "FAILED: " + ", ".join(self.wrong())]
        return "\n".join(lines)

    def wrong(self) -> list[str]:
        """The kinds of faults that were found, with their numbers."""
        return [f"{kind} {count}" for kind, count in self.faults.items() if count]


def _unlike_what_was_meant(run: Run, totals: dict[str, Histogram]) -> dict[str, list[str]]:
    """A run that did not do what it was for proves nothing, however good its figures."""
    failures = run.environment.stats.errors.values()
    classes = {kind.__name__ for kind in run.environment.user_classes if run.environment.runner is not None}
    silent = [
        measure
        for name, measures in MEASURES.items()
        if name in classes
        for measure in measures
        if measure not in totals
    ]
    several = len(run.sources.networks) > 1
    return {
        "failed requests": [
            f"{error.method} {error.name}: {error.error} ({error.occurrences} times)" for error in failures
        ],
        "replicas that got nobody": [name for name in run.sources.replicas if not run.welcomed[name]],
        "pairs on one replica": [
            " and ".join(member.name for member in pair.members)
            for pair in run.pairs
            if several and not _on_two_replicas(pair)
        ],
        "nothing came of": silent,
    }


def _on_two_replicas(pair: Any) -> bool:
    return len({member.replica for member in pair.members}) == 2


def _milliseconds(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "p50": _ms(histogram.percentile(50)),
        "p90": _ms(histogram.percentile(90)),
        "p99": _ms(histogram.percentile(99)),
        "longest": _ms(histogram.longest),
    }


def _ms(seconds: float | None) -> float:
    return 0.0 if seconds is None else round(seconds * 1000, 2)


def _row(name: str, each: dict[str, Any]) -> str:
    return f"  {name:<24}{each['count']:>10}{each['p50']:>10}{each['p90']:>10}{each['p99']:>10}{each['longest']:>10}"

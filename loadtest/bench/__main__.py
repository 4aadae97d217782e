"""`scripts/bench`: measure, say what comes out while it does, and write a page with tables and plots."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from loadtest.bench.measure import Failed, Work, measure
from loadtest.bench.page import ROOT_PAGE, write_page
from loadtest.bench.parts import PARTS
from loadtest.bench.systems import ROOT, SYSTEMS, System

SHOWN = {
    "deliveries_per_s": "{:9,.0f}/s",
    "publish_per_s": "{:9,.0f}/s one by one",
    "bound_per_s": "of {:,.0f}/s",
    "log_many_per_s": "{:9,.0f}/s by the hundred",
    "bound_many_per_s": "of {:,.0f}/s",
    "publications_per_s": "{:9,.0f} published/s",
    "cpu_us": "{:6.2f} µs each",
    "bytes_each": "{:8,.0f} bytes each",
    "sides_us": "{:6.2f} µs on both sides",
    "foreign_us": "{:6.2f} µs a foreign message",
    "envelopes": "{:.2f} envelopes each",
    "held_ms": "held for {:,.1f} ms",
    "other_ms": "another's message {:,.1f} ms",
    "all_served_ms": "everybody served after {:,.1f} ms",
    "memory_kib": "{:6.1f} KiB each",
    "idle_cpu": "{:6.2%} CPU idle",
    "connects_per_s": "{:6,.0f} connects/s",
    "connect_us": "{:5,.0f} µs a connect",
    "p50_us": "p50 {:,.0f} µs",
    "p99_us": "p99 {:,.0f} µs",
    "server_cpu": "server {:4.0%}",
    "client_cpu": "client {:4.0%}",
    "redis_cpu": "Redis {:4.0%}",
    "closed_3008": "{:.0f} closed with 3008",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog="Parts:\n" + "\n".join(f"  {each.name:10} {each.what}" for each in PARTS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ",".join(each.name for each in SYSTEMS)
    parts = ",".join(each.name for each in PARTS)
    parser.add_argument("--systems", default=known, help=f"which, separated by commas (all: {known})")
    parser.add_argument("--only", default="", help="which parts, separated by commas (all: see below)")
    parser.add_argument("--runs", type=int, default=3, help="of each point; the median counts (3)")
    parser.add_argument("--seconds", type=float, help="of each point that sends (3; quick: 1.5)")
    parser.add_argument("--quick", action="store_true", help="one run, and fewer points: about ten minutes")
    parser.add_argument("--results", type=Path, default=ROOT / "artifacts/bench/results.jsonl", help="added to")
    parser.add_argument("--page", type=Path, default=ROOT_PAGE, help="whose tables and plots are made anew")
    parser.add_argument("--only-page", action="store_true", help="measure nothing, make the page of what is there")
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if not options.only_page:
        wanted = options.systems.split(",")
        if unknown := [name for name in wanted if name not in known.split(",")]:
            parser.error(f"no such system: {', '.join(unknown)}")
        chosen = options.only.split(",") if options.only else parts.split(",")
        if unknown := [name for name in chosen if name not in parts.split(",")]:
            parser.error(f"no such part: {', '.join(unknown)}")
        systems, runs = _present(wanted), 1 if options.quick else options.runs
        turns = [
            (work, system)
            for part in PARTS
            if part.name in chosen
            for work in part.works(options.quick, options.seconds or (1.5 if options.quick else 3.0))
            for _ in range(min(runs, part.runs))
            for system in part.of(systems, work)
        ]
        run(turns, options.results)
    write_page(options.page, _read(options.results))
    print(f"the page: {options.page}")
    return 0


def _present(wanted: list[str]) -> list[System]:
    """The systems that can be measured here; what cannot is said."""
    present = []
    for system in SYSTEMS:
        if system.name not in wanted:
            continue
        if missing := system.missing():
            print(f"left out: {system.label}; this machine lacks {missing}", flush=True)
        else:
            present.append(system)
    return present


def run(turns: list[tuple[Work, System]], results: Path) -> None:
    """Measure in turns (A, B, C, A, B, C, …), so that a machine that becomes slower does so for all."""
    began, point = time.monotonic(), ""
    log = results.parent / "servers.log"
    for done, (work, system) in enumerate(turns, 1):
        if work.point != point:
            point = work.point
            print(f"\n{point}", flush=True)
        try:
            figures = measure(system, work, log)
        except (Failed, RuntimeError, OSError) as error:
            print(f"  {system.name:22} failed: {error}", flush=True)
            continue
        record = {"system": system.name, "at": time.time(), **vars(work), "figures": figures}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        left = (time.monotonic() - began) / done * (len(turns) - done)
        print(
            f"  {system.name:22} {_line(figures)}   [{done}/{len(turns)}, about {left / 60:.0f} min left]", flush=True
        )


def _line(figures: dict[str, Any]) -> str:
    return ", ".join(form.format(figures[key]) for key, form in SHOWN.items() if key in figures)


def _read(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())

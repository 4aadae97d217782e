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
from loadtest.bench.systems import ROOT, SYSTEMS, System

GROWTH = [100, 300, 1000, 2000, 5000]
RATES = [1, 5, 10, 20, 40]
IDLE = [500, 2000, 5000]


def works(*, quick: bool, seconds: float) -> list[Work]:
    """What is measured, of each system."""
    # Whoever does not read is found out once the buffers on the way to it are full.
    stall = [Work("stall", 200, rate=50, stalled=count, warmup=6, seconds=max(seconds, 5)) for count in (0, 1)]
    if quick:
        return [
            *(Work("growth", count, window=4, seconds=seconds) for count in (100, 1000)),
            Work("alone", 1000, window=1, seconds=seconds),
            *(Work("rate", 1000, rate=rate, seconds=seconds) for rate in (5, 20)),
            Work("idle", 1000, seconds=3),
            *stall,
        ]
    return [
        *(Work("growth", count, window=4, seconds=seconds) for count in GROWTH),
        Work("alone", 1000, window=1, seconds=seconds),
        *(Work("rate", 1000, rate=rate, seconds=max(seconds, 5)) for rate in RATES),
        *(Work("idle", count, seconds=8) for count in IDLE),
        *stall,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    known = ",".join(each.name for each in SYSTEMS)
    parser.add_argument("--systems", default=known, help=f"which, separated by commas (all: {known})")
    parser.add_argument("--only", default="", help="workloads: growth, alone, rate, idle, stall (all)")
    parser.add_argument("--runs", type=int, default=3, help="of each point; the median counts (3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each point that sends (3)")
    parser.add_argument("--quick", action="store_true", help="one run, and fewer points: a few minutes")
    parser.add_argument("--results", type=Path, default=ROOT / "artifacts/bench/results.jsonl", help="added to")
    parser.add_argument("--page", type=Path, default=ROOT_PAGE, help="whose tables and plots are made anew")
    parser.add_argument("--only-page", action="store_true", help="measure nothing, make the page of what is there")
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if not options.only_page:
        wanted = options.systems.split(",")
        if unknown := [name for name in wanted if name not in known.split(",")]:
            parser.error(f"no such system: {', '.join(unknown)}")
        points = works(quick=options.quick, seconds=options.seconds)
        points = [each for each in points if not options.only or each.name in options.only.split(",")]
        run(_present(wanted), points, 1 if options.quick else options.runs, options.results)
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


def run(systems: list[System], points: list[Work], runs: int, results: Path) -> None:
    """Measure in turns (A, B, C, A, B, C, …), so that a machine that becomes slower does so for all."""
    total = len(systems) * len(points) * runs
    began, done = time.monotonic(), 0
    log = results.parent / "servers.log"
    for work in points:
        print(f"\n{work.point}", flush=True)
        for number in range(runs):
            for system in systems:
                done += 1
                try:
                    figures = measure(system, work, log)
                except (Failed, RuntimeError, OSError) as error:
                    print(f"  {system.name:22} failed: {error}", flush=True)
                    continue
                record = {"system": system.name, "run": number, "at": time.time(), **vars(work), "figures": figures}
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                left = (time.monotonic() - began) / done * (total - done)
                print(
                    f"  {system.name:22} {_line(figures)}   [{done}/{total}, about {left / 60:.0f} min left]",
                    flush=True,
                )


def _line(figures: dict[str, Any]) -> str:
    if "memory_kib" in figures:
        parts = [f"{figures['memory_kib']:6.1f} KiB each", f"{figures['idle_cpu']:6.2%} CPU idle"]
        return ", ".join([*parts, f"{figures['connects_per_s']:6,.0f} connects/s"])
    parts = [f"{figures['deliveries_per_s']:9,.0f}/s", f"{figures['cpu_us']:6.2f} µs each"]
    parts += [f"{name} {figures[f'{name}_us'] / 1000:7.2f} ms" for name in ("p50", "p99")]
    parts += [f"server {figures['server_cpu']:4.0%}", f"client {figures['client_cpu']:4.0%}"]
    return ", ".join(parts)


def _read(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())

"""The results as tables and plots, put into docs/performance.md between two marks."""

from __future__ import annotations

import os
import platform
import re
import time
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.bench.measure import Work
from loadtest.bench.not_better import not_better
from loadtest.bench.plot import IMAGES
from loadtest.bench.sections import SECTIONS
from loadtest.bench.systems import ROOT

if TYPE_CHECKING:
    from loadtest.bench.records import Record

ROOT_PAGE = ROOT / "docs/performance.md"
POINT = [each.name for each in fields(Work) if each.name not in ("warmup", "seconds")]
BEGIN, END = "<!-- results: made by scripts/bench -->", "<!-- end of results -->"


def write_page(page: Path, records: list[Record]) -> None:
    """Renew what is between the marks, and the plots beside it."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    (page.parent / IMAGES).mkdir(parents=True, exist_ok=True)
    sections = [_machine(records), *(each(records, page.parent) for each in SECTIONS), not_better(records)]
    body = "\n\n".join(section for section in sections if section)
    page.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def _machine(records: list[Record]) -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    when = time.strftime("%Y-%m-%d", time.gmtime(max((each["at"] for each in records), default=time.time())))
    # What several calls of scripts/bench have added counts together.
    points = Counter((each["system"], *(each[key] for key in POINT)) for each in records)
    runs = max(points.values(), default=1)
    return (
        f"Measured {when} on {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, Linux "
        f"{platform.release()}, Python {platform.python_version()}. Medians of up to {runs} "
        f"{'runs' if runs > 1 else 'run'}, in brackets the smallest and the largest."
    )

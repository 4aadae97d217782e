"""The results as tables and plots, put into docs/performance.md between two marks."""

from __future__ import annotations

import os
import platform
import re
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pygal
from pygal.style import Style

from loadtest.bench.systems import ROOT, SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT_PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- results: made by scripts/bench -->", "<!-- end of results -->"
IMAGES = "images"  # beside the page

COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#8c6d31", "#777777", "#000000")
_LABELS = {each.name: each.label for each in SYSTEMS}

Record = dict[str, Any]
Points = dict[str, dict[float, float]]  # of each system: x -> median of y


def write_page(page: Path, records: list[Record]) -> None:
    """Renew what is between the marks, and the plots beside it."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.parent.mkdir(parents=True, exist_ok=True)
    (page.parent / IMAGES).mkdir(exist_ok=True)
    sections = [_machine(records), _fan_out(records), _alone(records), _growth(records, page.parent)]
    sections += [_latency(records, page.parent), _memory(records, page.parent), _stall(records), _not_better(records)]
    body = "\n\n".join(section for section in sections if section)
    page.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def _machine(records: list[Record]) -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    when = time.strftime("%Y-%m-%d", time.gmtime(max((each["at"] for each in records), default=time.time())))
    runs = max((each["run"] for each in records), default=0) + 1
    return (
        f"Measured {when} on {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, Linux "
        f"{platform.release()}, Python {platform.python_version()}. Medians of {runs} "
        f"{'run' if runs == 1 else 'runs'}, in brackets the smallest and the largest."
    )


def _fan_out(records: list[Record]) -> str:
    columns = [
        ("deliveries/s", "deliveries_per_s", "{:,.0f}"),
        ("µs CPU each", "cpu_us", "{:.2f}"),
        ("of it kernel", "kernel_us", "{:.2f}"),
        ("server busy", "server_cpu", "{:.0%}"),
        ("client busy", "client_cpu", "{:.0%}"),
    ]
    chosen = _of(records, "growth", subscribers=1000)
    return _section("One to 1,000, four messages under way", chosen, columns)


def _alone(records: list[Record]) -> str:
    columns = [
        ("deliveries/s", "deliveries_per_s", "{:,.0f}"),
        ("µs CPU each", "cpu_us", "{:.2f}"),
        ("of it kernel", "kernel_us", "{:.2f}"),
    ]
    return _section("One to 1,000, one message under way (nothing to join)", _of(records, "alone"), columns)


def _growth(records: list[Record], folder: Path) -> str:
    chosen = _of(records, "growth")
    if not chosen:
        return ""
    speed = _points(chosen, "subscribers", lambda figures: figures["deliveries_per_s"])
    cost = _points(chosen, "subscribers", lambda figures: figures["cpu_us"])
    _plot(folder, "bench-deliveries", "Deliveries a second", "subscribers", speed, logarithmic=True)
    _plot(folder, "bench-cpu", "CPU for each delivery, µs", "subscribers", cost, logarithmic=True)
    return (
        "### Against the number of subscribers\n\n"
        f"![Deliveries a second against subscribers]({IMAGES}/bench-deliveries.svg)\n\n"
        f"![CPU for each delivery against subscribers]({IMAGES}/bench-cpu.svg)\n\n"
        + _grid("µs CPU each", cost, "{:.2f}")
    )


def _latency(records: list[Record], folder: Path) -> str:
    chosen = _of(records, "rate")
    if not chosen:
        return ""
    middle = _points(chosen, "rate", lambda figures: figures["p50_us"] / 1000)
    late = _points(chosen, "rate", lambda figures: figures["p99_us"] / 1000)
    _plot(folder, "bench-p50", "Latency at 1,000 subscribers, p50, ms", "messages a second", middle, logarithmic=True)
    _plot(folder, "bench-p99", "Latency at 1,000 subscribers, p99, ms", "messages a second", late, logarithmic=True)
    return (
        "### Latency against rate\n\n"
        "From the moment at which a message should have been sent, to 1,000 subscribers.\n\n"
        f"![p50 against rate]({IMAGES}/bench-p50.svg)\n\n![p99 against rate]({IMAGES}/bench-p99.svg)\n\n"
        + _grid("p50, ms", middle, "{:.2f}")
        + "\n\n"
        + _grid("p99, ms", late, "{:.2f}")
    )


def _memory(records: list[Record], folder: Path) -> str:
    chosen = _of(records, "idle")
    if not chosen:
        return ""
    held = _points(
        chosen,
        "subscribers",
        lambda figures: (figures["empty_kib"] + figures["memory_kib"] * figures["connections"]) / 1024,
    )
    _plot(folder, "bench-memory", "Resident memory, MiB", "idle connections", held, logarithmic=False)
    most = max(each["subscribers"] for each in chosen)
    columns = [
        ("KiB each", "memory_kib", "{:.1f}"),
        ("CPU while idle", "idle_cpu", "{:.2%}"),
        ("connects/s", "connects_per_s", "{:,.0f}"),
        ("µs CPU a connect", "connect_us", "{:,.0f}"),
    ]
    table = _section(
        f"{most:,} idle connections, each on one channel", _of(chosen, "idle", subscribers=most), columns
    )
    return f"{table}\n\n![Memory against connections]({IMAGES}/bench-memory.svg)"


def _stall(records: list[Record]) -> str:
    rows = []
    for name, mine in _by_system(_of(records, "stall")).items():
        late: dict[int, list[float]] = {0: [], 1: []}
        for each in mine:
            if each["figures"]["p99_us"] > 0:
                late[each["stalled"]].append(each["figures"]["p99_us"] / 1000)
        if late[0] and late[1]:
            all_read, one_stalls = median(late[0]), median(late[1])
            ratio = one_stalls / all_read
            rows.append([_LABELS.get(name, name), f"{all_read:.2f}", f"{one_stalls:.2f}", f"{ratio:.2f}"])
    if not rows:
        return ""
    head = ["", "all read", "one does not", "ratio"]
    return "### One of 200 does not read\n\np99 of the others, in ms.\n\n" + _table(head, rows)


def _not_better(records: list[Record]) -> str:
    """Where somebody else is ahead of us, said by the figures themselves."""
    lines = []
    for title, workload, which, better in (
        ("deliveries/s, four under way", _of(records, "growth", subscribers=1000), "deliveries_per_s", max),
        ("deliveries/s, one under way", _of(records, "alone"), "deliveries_per_s", max),
        ("p50 at 20 messages a second", _of(records, "rate", rate=20), "p50_us", min),
        ("p99 at 20 messages a second", _of(records, "rate", rate=20), "p99_us", min),
        ("memory for each connection", _largest(records), "memory_kib", min),
        ("CPU while idle", _largest(records), "idle_cpu", min),
        ("connects/s", _largest(records), "connects_per_s", max),
    ):
        figures = {
            name: median(each["figures"][which] for each in mine)
            for name, mine in _by_system(workload).items()
            if all(each["figures"][which] >= 0 for each in mine)  # a system that is behind has no latency
        }
        for own in ("heliograph", "heliograph-ephemeral"):
            ahead = [
                _LABELS.get(name, name)
                for name, value in figures.items()
                if not name.startswith("heliograph")
                and own in figures
                and better(value, figures[own]) != figures[own]
            ]
            if ahead:
                lines.append(
                    f"- {title}: {', '.join(ahead)} {'is' if len(ahead) == 1 else 'are'} ahead of {_LABELS[own]}."
                )
    if not lines:
        return "### What is not better\n\nNothing of what was measured here."
    return "### What is not better\n\n" + "\n".join(lines)


def _largest(records: list[Record]) -> list[Record]:
    idle = _of(records, "idle")
    most = max((each["subscribers"] for each in idle), default=0)
    return _of(idle, "idle", subscribers=most)


def _of(records: Iterable[Record], name: str, **wanted: object) -> list[Record]:
    return [
        each for each in records if each["name"] == name and all(each[key] == value for key, value in wanted.items())
    ]


def _by_system(records: Iterable[Record]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = defaultdict(list)
    for each in records:
        grouped[each["system"]].append(each)
    return {name: grouped[name] for name in [each.name for each in SYSTEMS] if name in grouped}


def _points(records: list[Record], key: str, value: Callable[[dict[str, Any]], float]) -> Points:
    points: Points = {}
    for name, mine in _by_system(records).items():
        at: dict[float, list[float]] = defaultdict(list)
        for each in mine:
            if (y := value(each["figures"])) > 0:  # a system that is behind by seconds has no latency
                at[each[key]].append(y)
        points[name] = {x: median(values) for x, values in sorted(at.items())}
    return points


def _section(title: str, records: list[Record], columns: list[tuple[str, str, str]]) -> str:
    if not records:
        return ""
    rows = []
    for name, mine in _by_system(records).items():
        row = [_LABELS.get(name, name)]
        for _, key, form in columns:
            values = [each["figures"][key] for each in mine]
            spread = f" ({form.format(min(values))}–{form.format(max(values))})" if len(values) > 1 else ""
            row.append(form.format(median(values)) + spread)
        rows.append(row)
    return f"### {title}\n\n" + _table(["", *(title for title, _, _ in columns)], rows)


def _grid(title: str, points: Points, form: str) -> str:
    xs = sorted({x for each in points.values() for x in each})
    rows = [
        [_LABELS.get(name, name), *(form.format(each[x]) if x in each else "" for x in xs)]
        for name, each in points.items()
    ]
    return _table([title, *(f"{x:,g}" for x in xs)], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plot(folder: Path, name: str, title: str, x_title: str, points: Points, *, logarithmic: bool) -> None:
    style = Style(
        background="#ffffff",
        plot_background="#ffffff",
        colors=COLOURS,
        font_family="sans-serif",
        title_font_size=16,
        label_font_size=12,
        legend_font_size=12,
    )
    chart = pygal.XY(
        style=style,
        title=title,
        x_title=x_title,
        width=900,
        height=460,
        dots_size=3,
        legend_at_bottom=True,
        legend_at_bottom_columns=3,
        logarithmic=logarithmic,
        js=(),
        include_x_axis=not logarithmic,
        x_value_formatter=lambda x: f"{x:,.0f}",
        value_formatter=lambda y: f"{y:,.3g}" if y < 1000 else f"{y:,.0f}",
        x_labels=sorted({x for each in points.values() for x in each}),
        truncate_legend=-1,
    )
    for system in SYSTEMS:
        if system.name in points:
            chart.add(system.label, sorted(points[system.name].items()))
    (folder / IMAGES / f"{name}.svg").write_text(_settled(chart.render(is_unicode=True)), encoding="utf-8")


def _settled(svg: str) -> str:
    """Without what is another each time it is rendered."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "plot", svg)

"""The report of a run: one HTML file that needs no other."""

from __future__ import annotations

import re
import time
from html import escape
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pygal
from pygal.style import Style

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from loadtest.figures import Figures, Second
    from loadtest.run import Run
    from loadtest.summary import Summary

# Told apart by people who see colours differently, too (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
PERCENTILES = (50, 90, 99)
TICKS = 8  # labels on an axis of time, about

CSS = """
:root { font: 15px/1.45 system-ui, sans-serif; color: #1d2429; background: #f3f5f7; }
body { max-width: 1160px; margin: 0 auto; padding: 24px; }
header { display: flex; align-items: center; gap: 16px; flex-wrap: wrap; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 32px 0 8px; }
.verdict { font-weight: 600; padding: 2px 14px; border-radius: 14px; color: #fff; }
.passed { background: #1a7f4b; } .failed { background: #b3261e; }
.when { color: #5a6771; margin: 4px 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(166px, 1fr)); gap: 12px; }
.tile, figure, .table { background: #fff; border: 1px solid #dde3e8; border-radius: 8px; }
.tile { padding: 10px 14px; } .tile b { display: block; font-size: 18px; white-space: nowrap; }
.tile span { color: #5a6771; font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 14px; }
figure { margin: 0; padding: 10px 12px 4px; } figcaption { font-weight: 600; }
figcaption small { font-weight: 400; color: #5a6771; }
figure svg .guide.line { stroke: #dde3e8 !important; stroke-dasharray: none !important; }
.keys { font-size: 13px; color: #44515b; } .keys span { margin-right: 14px; white-space: nowrap; }
.keys i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
figure svg { width: 100%; height: auto; display: block; }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px; text-align: right; border-top: 1px solid #e8edf0; }
tr:first-child > * { border-top: 0; } th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; color: #44515b; }
.faults { columns: 2; column-gap: 14px; } .faults div { break-inside: avoid; }
.faults div { background: #fff; border: 1px solid #dde3e8; border-radius: 8px; }
.faults div { padding: 5px 14px; margin-bottom: 6px; }
.faults b { float: right; font-variant-numeric: tabular-nums; } .faults .bad { background: #fdeceb; color: #8c1d18; }
.faults ul { margin: 2px 0; padding-left: 18px; font-size: 13px; }
.note { color: #5a6771; font-size: 14px; max-width: 80ch; }
"""


def write_report(path: Path, summary: Summary, run: Run) -> None:
    path.write_text(_page(summary, run), encoding="utf-8")


def _page(summary: Summary, run: Run) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(run.began))
    verdict = "passed" if summary.passed else "failed"
    load = run.load
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Heliograph load test: {verdict}</title>
<style>{CSS}</style>
<body>
<header><h1>Heliograph load test</h1><span class="verdict {verdict}">{verdict}</span></header>
<p class="when">{began} · {escape(summary.url)} · {summary.users} users for {summary.seconds:.0f} s ·
{load.rate:g} messages a second of each who sends · {load.channels} channels</p>
{_tiles(summary)}
<h2>Nothing lost, nothing twice</h2>
{_faults(summary)}
<h2>How long a message takes</h2>
<p class="note">From the sender's stamp to the reader, both in this process, by one clock. “churn missed” is
what was sent while its reader was away, measured from the moment at which the reader began to come back. “answer” is
the time until the sender had its acknowledgement, “connect” the time until the cluster said welcome.</p>
{_latencies(summary)}
<h2>The spread over the replicas</h2>
{_replicas(summary)}
<h2>Over time</h2>
<p class="note">Seconds since the start, on every axis of time. A percentile is that of one second.</p>
<div class="charts">
{"".join(_charts(run))}
</div>
</body>
</html>
"""


def _tiles(summary: Summary) -> str:
    kept = summary.latency.get("pairs kept") or next(iter(summary.latency.values()), None)
    tiles = [
        (f"{summary.deliveries_per_second:,.0f}/s", "deliveries"),
        (f"{summary.sent_per_second:,.0f}/s", "messages sent"),
        (f"{summary.delivered:,}", "deliveries in all"),
        (f"{summary.returns:,}", "returns with a cursor"),
        (f"{summary.faults['lost']} / {summary.faults['doubled']}", "lost / doubled"),
    ]
    if kept:
        tiles.insert(2, (f"{kept['p50']:.3g} / {kept['p99']:.3g} ms", "p50 / p99 of a kept message"))
    cells = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{name}</span></div>' for value, name in tiles)
    return f'<div class="tiles">{cells}</div>'


def _faults(summary: Summary) -> str:
    boxes = []
    for kind, count in summary.faults.items():
        examples = "".join(f"<li>{escape(each)}</li>" for each in summary.examples.get(kind, []))
        named = f"<ul>{examples}</ul>" if examples else ""
        boxes.append(f"<div{' class=bad' if count else ''}><b>{count:,}</b>{kind}{named}</div>")
    return f'<div class="faults">{"".join(boxes)}</div>'


def _latencies(summary: Summary) -> str:
    measured = {
        **summary.latency,
        **{f"answer: {name}": each for name, each in summary.answers.items()},
        "connect": summary.connects,
    }
    rows = [
        [name, f"{each['count']:,}", *(f"{each[column]:.2f}" for column in ("p50", "p90", "p99", "longest"))]
        for name, each in measured.items()
    ]
    return _table(["ms", "count", "p50", "p90", "p99", "longest"], rows)


def _replicas(summary: Summary) -> str:
    rows = [
        [name, str(each["networks"]), f"{each['connects']:,}", f"{each['most_connections']:,}"]
        for name, each in summary.replicas.items()
    ]
    pairs = f"{summary.pairs_on_two_replicas} of {summary.pairs} pairs were on two different replicas at the end."
    return _table(["replica", "networks", "connects", "most open at once"], rows) + f'<p class="note">{pairs}</p>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{escape(name)}</th>" for name in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f'<div class="table"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _charts(run: Run) -> Iterable[str]:
    figures = run.figures
    scenarios = list(figures.totals())
    seconds = [figures.seconds[second] for second in _axis(figures)]

    def samples(value: Callable[[Second], float]) -> list[float | None]:
        return [value(second) if second.sampled else None for second in seconds]

    yield _chart(
        "Deliveries a second, by scenario",
        {name: [second.delivered[name].count for second in seconds] for name in scenarios},
    )
    yield _chart(
        "Connections, by replica",
        {
            name: [second.connections[name] if second.sampled else None for second in seconds]
            for name in run.sources.replicas
        },
        integers=True,
    )
    for scenario in scenarios:
        yield _chart(
            f"{scenario} <small>ms</small>",
            {
                f"p{percent}": [_ms(second.delivered[scenario].percentile(percent)) for second in seconds]
                for percent in PERCENTILES
            },
        )
    yield _chart(
        "Messages lost and doubled <small>lost: gaps that are open at that moment; doubled: so far</small>",
        {"lost": samples(lambda second: second.lost), "doubled": samples(lambda second: second.doubled)},
        integers=True,
    )
    yield _locust_chart(run)
    yield _chart(
        "This process <small>woken up late at worst, ms: a latency may be too long by as much</small>",
        {"late": [second.lag_s * 1000 for second in seconds]},
    )
    yield _chart(
        "This process <small>CPU, % of one core: above 90 it is the bottleneck</small>",
        {"CPU": samples(lambda second: second.cpu_percent)},
    )


def _locust_chart(run: Run) -> str:
    """What locust has written down about its users and requests (deliveries, answers and connects are requests)."""
    history = run.environment.stats.history
    return _chart(
        "What locust counted <small>requests and failures a second, users</small>",
        {
            "requests": [entry["current_rps"][1] for entry in history],
            "failures": [entry["current_fail_per_sec"][1] for entry in history],
            "users": [entry["user_count"][1] for entry in history],
        },
        every_s=5,
    )


def _chart(caption: str, series: dict[str, list[Any]], *, integers: bool = False, every_s: int = 1) -> str:
    highest = max((value for values in series.values() for value in values if value is not None), default=0)
    length = max((len(values) for values in series.values()), default=0)
    chart = pygal.Line(
        width=560,
        height=270,
        margin=6,
        style=Style(
            background="transparent",
            plot_background="transparent",
            foreground="#44515b",
            foreground_strong="#1d2429",
            foreground_subtle="#c9d2d8",
            guide_stroke_color="#dde3e8",
            colors=COLOURS,
            label_font_size=11,
            major_label_font_size=11,
            font_family="system-ui, sans-serif",
            stroke_width=1.8,
        ),
        js=(),
        disable_xml_declaration=True,
        show_dots=False,
        show_legend=False,
        truncate_label=-1,
        show_minor_x_labels=False,
        range=(0, max(1, highest)),
        value_formatter=lambda value: f"{value:,.0f}" if integers or highest >= 10 else f"{value:g}",
        y_labels=_steps(highest, integers=integers),
    )
    chart.x_labels = [str(second * every_s) for second in range(length)]
    step = max(1, round(length / TICKS / 5) * 5) if length > 2 * TICKS else 2
    chart.x_labels_major = [str(second * every_s) for second in range(0, length, step)]
    for name, values in series.items():
        chart.add(name, values)
    picture = re.sub(r"<script.*?</script>", "", chart.render(is_unicode=True), flags=re.DOTALL)  # for tooltips
    keys = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in zip(series, cycle(COLOURS), strict=False)
    )
    return f'<figure><figcaption>{caption}</figcaption><div class="keys">{keys}</div>{picture}</figure>'


def _steps(highest: float, *, integers: bool) -> list[float]:
    """Round numbers for the axis, from 0 to the first that is high enough."""
    highest = max(highest, 1)
    unit = 1.0
    while highest / unit > 6:
        unit *= 2.5 if str(unit).strip("0.") == "2" else 2
    while not integers and highest / unit < 3:
        unit /= 2
    count = int(-(-highest // unit))
    return [unit * step for step in range(count + 1)]


def _axis(figures: Figures) -> range:
    return range(max(figures.seconds, default=0) + 1)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000

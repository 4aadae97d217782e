"""A plot of the benchmark: a line for each system, as SVG."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pygal
from pygal.style import Style

from loadtest.bench.systems import SYSTEMS

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.bench.records import Points

COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#8c6d31", "#777777", "#000000")
IMAGES = "images"  # beside the page


def plot(folder: Path, name: str, title: str, x_title: str, points: Points, *, logarithmic: bool) -> None:
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

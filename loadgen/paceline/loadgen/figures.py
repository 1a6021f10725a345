"""The main pictures as PNG files, for slides and print; the page draws its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from paceline.loadgen import charts, charts_of_requests
from paceline.loadgen.systems import system
from paceline.loadgen.units import is_open, unit
from paceline.loadgen.wording import milliseconds

Summary = Mapping[str, Any]

# The same accents as the page's light theme.
COLOURS = {
    "sequential": "#687485",
    "static": "#d56c06",
    "dynamic": "#b0419a",
    "continuous": "#0b62d6",
    "transformers": "#2b323b",
    "transformers-batched": "#0a8464",
}
MARKERS = {"sequential": "^", "static": "s", "dynamic": "D", "continuous": "o"}
BASELINE_MARKERS = {"transformers": "x", "transformers-batched": "P"}
INK, SOFT, RULE = "#16202c", "#56616f", "#dfe3e8"
STYLE: Any = {
    "font.size": 11,
    "font.family": ["sans-serif"],
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9ecf0",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
    "legend.frameon": False,
}


def write_figures(folder: Path, summary: Summary) -> list[Path]:
    """Writes the pictures this run has data for; their paths."""
    made = []
    with matplotlib.rc_context(STYLE):
        for name, draw in FIGURES.items():
            figure = draw(summary)
            if figure is not None:
                path = folder / f"{name}.png"
                figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
                made.append(path)
    return made


def _colour(key: str) -> str:
    return COLOURS.get(key, SOFT)


def _lines(chart: Mapping[str, Any], title: str) -> Figure:
    """One line per series with its labels, on the axes the chart asks for."""
    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for series in chart["series"]:
        key, points = series["key"], series["points"]
        baseline = key in BASELINE_MARKERS
        axes.plot(
            [point["x"] for point in points],
            [point["y"] for point in points],
            color=_colour(key),
            marker=BASELINE_MARKERS.get(key) or MARKERS.get(key, "o"),
            linestyle="--" if baseline else "-",
            linewidth=2,
            markersize=6,
            label=series["label"],
        )
        hollow = [point for point in points if point.get("hollow")]
        axes.plot(
            [point["x"] for point in hollow],
            [point["y"] for point in hollow],
            color=_colour(key),
            marker=MARKERS.get(key, "o"),
            linestyle="none",
            markerfacecolor="white",
            markersize=6,
        )
        for point in points:
            place = (point["x"], point["y"])
            axes.annotate(
                point["label"],
                place,
                (0, 7),
                textcoords="offset points",
                fontsize=8,
                ha="center",
                color=SOFT,
            )
    _scale_x(axes, chart)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(chart["x"]["label"])
    axes.set_ylabel(chart["y"]["label"])
    axes.set_title(title, loc="left", fontweight="bold", fontsize=12)
    axes.legend(fontsize=9)
    return figure


def _scale_x(axes: Any, chart: Mapping[str, Any]) -> None:
    scale = chart["x"]["scale"]
    if scale == "levels":
        axes.set_xscale("log", base=2)
        sizes = sorted({point["x"] for one in chart["series"] for point in one["points"]})
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif scale == "log":
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        subs = (1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 5, 7)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=30))
        words = FuncFormatter(lambda value, _place: milliseconds(value))
        axes.xaxis.set_major_formatter(words)
        axes.xaxis.set_minor_formatter(NullFormatter())


def _headline(summary: Summary) -> Figure | None:
    chart = charts.headline(summary)
    if chart is None:
        return None
    return _lines(chart["views"][0], f"Throughput against latency; numbers: {unit(summary)}")


def _by_size(field: str, label: str, form: str, title: str) -> Callable[[Summary], Figure | None]:
    def draw(summary: Summary) -> Figure | None:
        chart = charts.by_size(summary, field, label, form)
        against = "rate" if is_open(summary) else "batch size"
        return _lines(chart, f"{title} against {against}") if chart else None

    return draw


def _scatter(summary: Summary) -> Figure | None:
    chart = charts.scatter(summary)
    if chart is None:
        return None
    counted = unit(summary) if is_open(summary) else "batch size or concurrency"
    return _lines(chart, f"Latency against throughput; numbers: {counted}")


def _goodput(summary: Summary) -> Figure | None:
    chart = charts_of_requests.goodput_curve(summary)
    return _lines(chart, "Goodput against load; numbers: share that met the SLO") if chart else None


def _padding(summary: Summary) -> Figure | None:
    chart = charts.padding(summary)
    if chart is None:
        return None
    rows = list(reversed(chart["rows"]))
    figure = Figure(figsize=(8, 0.6 * len(rows) + 1.2))
    axes = figure.subplots()
    values = [100 * row["parts"][0]["value"] for row in rows]
    bars = axes.barh(
        [row["label"] for row in rows], values, color=[_colour(row["key"]) for row in rows]
    )
    axes.bar_label(bars, [row["text"] for row in rows], padding=4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("per cent of computed tokens that were padding")
    axes.set_title("Padding waste", loc="left", fontweight="bold", fontsize=12)
    return figure


def _occupancy(summary: Summary) -> Figure | None:
    lines = {mode: line for mode, line in summary["timeline"].items() if line["t_s"]}
    if not lines:
        return None
    figure = Figure(figsize=(9, 1.7 * len(lines) + 2.4))
    panels = figure.subplots(len(lines) + 1, 1, sharex=True)
    top = max(max(line["padded_rows"]) for line in lines.values()) or 1
    for axes, (mode, line) in zip(panels, lines.items(), strict=False):
        axes.fill_between(
            line["t_s"], line["padded_rows"], step="post", color="#c9342b", alpha=0.28, linewidth=0
        )
        axes.fill_between(
            line["t_s"], line["rows"], step="post", color=_colour(mode), alpha=0.9, linewidth=0
        )
        axes.set_ylim(0, top * 1.05)
        axes.set_title(system(mode).label, loc="left", fontsize=10)
        panels[-1].plot(line["rate_t_s"], line["client_tok_s"], color=_colour(mode), linewidth=1.6)
    panels[-1].set_ylim(bottom=0)
    panels[-1].set_title("Tokens per second at the client", loc="left", fontsize=10)
    panels[-1].set_xlabel("seconds since the first request of each mode")
    figure.suptitle(
        "Rows at work (solid) and rows of padding (red)",
        x=0.12,
        ha="left",
        fontweight="bold",
        fontsize=12,
    )
    figure.subplots_adjust(hspace=0.45)
    return figure


FIGURES: dict[str, Callable[[Summary], Figure | None]] = {
    "throughput_latency": _headline,
    "throughput_batch_size": _by_size(
        "output_tok_s", "output tokens per second", "count", "Throughput"
    ),
    "total_time_batch_size": _by_size(
        "total_time_s", "seconds for the same work", "s", "Total time"
    ),
    "latency_throughput": _scatter,
    "goodput": _goodput,
    "padding_waste": _padding,
    "occupancy": _occupancy,
}

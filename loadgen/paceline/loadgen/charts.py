"""Charts as plain objects that charts.js draws: which series, which points, which words on hover. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paceline.loadgen import charts_of_requests, charts_of_time
from paceline.loadgen.batches import batch_lines
from paceline.loadgen.bounds import at_least, is_bound
from paceline.loadgen.charts_of_time import Chart, Summary, legend
from paceline.loadgen.systems import SYSTEMS, system
from paceline.loadgen.tables import median
from paceline.loadgen.units import is_open, measured, size, size_words, unit
from paceline.loadgen.verdicts import level_at, levels_of, modes_of, tokens_per_second
from paceline.loadgen.wording import milliseconds, percent, rate, seconds, upper

LATENCIES = {
    "e2e_ms": ("End to end", "median end-to-end latency of a request"),
    "ttft_ms": ("First token (TTFT)", "median time to first token"),
    "tpot_ms": ("Per token (TPOT)", "median time per output token"),
}


def charts(summary: Summary) -> dict[str, Chart]:
    """Every chart of the report that this run has data for, by the id of its figure."""
    made = {
        "fig-headline": headline(summary),
        "fig-throughput": by_size(summary, "output_tok_s", "output tokens per second", "count"),
        "fig-time": by_size(summary, "total_time_s", "seconds for the same work", "s"),
        "fig-scatter": scatter(summary),
        "fig-latency": latency(summary),
        "fig-padding": padding(summary),
        "fig-occupancy": charts_of_time.occupancy(summary),
        "fig-lanes": charts_of_time.lanes(summary),
        "fig-where": charts_of_time.where(summary),
        "fig-gantt": charts_of_time.gantt(summary),
        "fig-timeline": charts_of_time.timeline(summary),
        "fig-goodput": charts_of_requests.goodput(summary),
        "fig-cdf": charts_of_requests.cumulative(summary),
        "fig-histogram": charts_of_requests.histogram(summary),
        "fig-prompt": charts_of_requests.prompt_scatter(summary),
        "fig-output": charts_of_requests.output_scatter(summary),
    }
    return {key: chart for key, chart in made.items() if chart is not None}


def _series(key: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    return {"key": key, "label": system(key).label, "points": points}


def _point(x: float, y: float, label: str, tip: str, *, hollow: bool = False) -> dict[str, Any]:
    """A point; a hollow one has a latency that is a lower bound."""
    return {"x": x, "y": y, "label": label, "tip": tip} | ({"hollow": True} if hollow else {})


def level_tip(level: Mapping[str, Any]) -> str:
    """What hovering over a level says."""
    spread = level["latency"]
    return "\n".join(
        (
            size_words(level),
            f"{rate(tokens_per_second(level))} output tok/s",
            f"TTFT {median(level, 'ttft_ms')}",
            f"TPOT {median(level, 'tpot_ms')}",
            f"end to end {median(level, 'e2e_ms')}",
            f"{spread['ttft_ms']['n']} requests in the window",
        )
    )


def headline(summary: Summary) -> Chart | None:
    """Throughput against latency per mode, a view per kind of latency."""
    views = []
    for metric, (name, label) in LATENCIES.items():
        series = [
            _series(mode, points)
            for mode in modes_of(summary)
            if (points := _against_latency(summary, mode, metric))
        ]
        x = {"label": f"{label} (log scale)", "scale": "log", "format": "ms"}
        y = {"label": "output tokens per second", "scale": "linear", "format": "count"}
        if series:
            views.append({"name": name, "series": series, "x": x, "y": y})
    if not views:
        return None
    return {"kind": "xy", "height": 430, "legend": legend(modes_of(summary)), "views": views}


def _against_latency(summary: Summary, mode: str, metric: str) -> list[dict[str, Any]]:
    return [
        _point(
            level["latency"][measured(level, metric)]["median"],
            level["throughput"]["output_tok_s"],
            size(level),
            level_tip(level),
            hollow=is_bound(level, metric),
        )
        for level in levels_of(summary, mode)
        if level["latency"][measured(level, metric)]["median"]
    ]


def _batch_series(
    summary: Summary, point: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> list[dict[str, Any]]:
    series = []
    for entry in SYSTEMS:
        points = [made for line in batch_lines(summary, entry.key) if (made := point(line))]
        if points:
            series.append(_series(entry.key, points))
    return series


def _batch_tip(line: Mapping[str, Any]) -> str:
    return "\n".join(
        (
            f"{line['size']:g}{line['unit']}",
            f"{rate(line['output_tok_s'])} output tok/s",
            f"{seconds(line['total_time_s'])} for the same work",
            f"{at_least(milliseconds(line['latency_ms']), line['bound'])} mean latency",
            f"{percent(line['padding_waste'])} padding",
        )
    )


def by_size(summary: Summary, field: str, label: str, form: str) -> Chart | None:
    """One figure of every system against batch size or concurrency."""

    def point(line: dict[str, Any]) -> dict[str, Any] | None:
        return _point(line["size"], line[field], "", _batch_tip(line)) if line[field] else None

    series = _batch_series(summary, point)
    x = {"label": _size_label(summary), "scale": "levels", "format": "count"}
    return _xy(series, x, {"label": label, "scale": "linear", "format": form})


def _size_label(summary: Summary) -> str:
    return unit(summary) if is_open(summary) else "batch size / requests in flight"


def scatter(summary: Summary) -> Chart | None:
    """Throughput against mean latency per request, each point with its batch size or concurrency."""

    def point(line: dict[str, Any]) -> dict[str, Any] | None:
        if not line["latency_ms"] or not line["output_tok_s"]:
            return None
        label = line["label"]
        return _point(
            line["latency_ms"], line["output_tok_s"], label, _batch_tip(line), hollow=line["bound"]
        )

    x = {"label": "mean latency of a request (log scale)", "scale": "log", "format": "ms"}
    y = {"label": "output tokens per second", "scale": "linear", "format": "count"}
    return _xy(_batch_series(summary, point), x, y)


def _xy(series: list[dict[str, Any]], x: Chart, y: Chart) -> Chart | None:
    if not series:
        return None
    entries = legend([one["key"] for one in series], short=True)
    return {"kind": "xy", "height": 360, "legend": entries, "series": series, "x": x, "y": y}


def latency(summary: Summary) -> Chart | None:
    """Latency against concurrency: the median as a line, the band up to the highest percentile known."""
    views = []
    for metric in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        name, label = LATENCIES.get(metric, ("Between tokens (ITL)", "time between two tokens"))
        series = [
            _series(mode, points)
            for mode in modes_of(summary)
            if (points := _bands(summary, mode, metric))
        ]
        x = {"label": unit(summary), "scale": "levels", "format": "count"}
        y = {
            "label": f"{label.removeprefix('median ')} (log scale)",
            "scale": "log",
            "format": "ms",
        }
        if series:
            views.append({"name": name, "series": series, "x": x, "y": y})
    if not views:
        return None
    return {"kind": "xy", "height": 400, "legend": legend(modes_of(summary)), "views": views}


def _bands(summary: Summary, mode: str, metric: str) -> list[dict[str, Any]]:
    points = []
    for level in levels_of(summary, mode):
        spread = level["latency"][measured(level, metric)]
        if not spread["median"]:
            continue
        name, high = upper(spread)
        bound = is_bound(level, metric)
        tip = f"{size_words(level)}\nmedian {median(level, metric)}"
        tip += f"\n{name} {at_least(milliseconds(high), bound)}\nn = {spread['n']:,}"
        point = _point(level["target"]["value"], spread["median"], "", tip, hollow=bound)
        points.append(point | {"lo": spread["median"], "hi": max(high or 0.0, spread["median"])})
    return points


def padding(summary: Summary) -> Chart | None:
    """Padding waste of each mode at the reference concurrency, and of the baseline's largest batch."""
    reference = summary["verdicts"]["reference_concurrency"]
    rows = []
    for mode in modes_of(summary):
        level = level_at(summary, mode, reference)
        waste = level["server"].get("padding_waste") if level else None
        if level is not None and waste is not None:
            tip = f"{size_words(level)}\n{percent(waste)} of computed tokens were padding"
            rows.append(_waste_row(mode, system(mode).label, waste, tip))
    batched = [
        p for p in summary["baselines"] if p["padding_waste"] is not None and p["batch_size"] > 1
    ]
    if batched:
        point = max(batched, key=lambda one: one["batch_size"])
        label = f"{system(point['system']).short} of {point['batch_size']}"
        tip = f"{percent(point['padding_waste'])} of computed tokens were padding"
        rows.append(_waste_row(point["system"], label, point["padding_waste"], tip))
    if not rows:
        return None
    x = {"label": "share of computed tokens that were padding", "format": "percent"}
    return {"kind": "bars", "rows": rows, "x": x, "rowHeight": 34}


def _waste_row(key: str, label: str, waste: float, tip: str) -> dict[str, Any]:
    parts = [{"key": key, "value": max(waste, 0.0)}]
    return {"key": key, "label": label, "parts": parts, "text": percent(waste), "tip": tip}

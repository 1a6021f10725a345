"""The charts of single requests: distributions, scatters, goodput under any limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.loadgen.charts_of_time import Chart, Summary, legend
from paceline.loadgen.detail import BINS_PER_DECADE, CURVE_POINTS
from paceline.loadgen.slo import PRESETS, SloError, parse_slo
from paceline.loadgen.systems import system
from paceline.loadgen.units import unit
from paceline.loadgen.verdicts import level_at, levels_of, modes_of
from paceline.loadgen.wording import milliseconds, percent

NAMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL", "e2e_ms": "End to end"}
FEW = 5


def goodput(summary: Summary) -> Chart | None:
    """Requests of every level as columns: the page counts, under the limits its sliders stand at, which were good."""
    series: list[Chart] = []
    for mode in modes_of(summary):
        levels = [
            {"x": level["target"]["value"]}
            | {name: level["detail"][name] for name in ("of", "every", "window_s", "state")}
            | {"out": level["detail"]["output_tokens"]}
            | {name: level["detail"][f"{name}_ms"] for name in ("ttft", "tpot", "e2e")}
            for level in levels_of(summary, mode)
            if level["detail"]["of"] and level["detail"]["window_s"]
        ]
        if levels:
            series.append({"key": mode, "label": system(mode).label, "levels": levels})
    if not series:
        return None
    start, *_ = _limits(summary["run"].get("slo") or ()) or [{"ttft": 2000, "tpot": 200}]
    x = {"label": x_label(summary), "scale": "levels", "format": "count"}
    return {"kind": "goodput", "height": 360, "legend": legend([s["key"] for s in series])} | {
        "series": series,
        "x": x,
        "start": start,
        "presets": _limits(summary["run"].get("slo") or ()) + _limits(PRESETS),
    }


def goodput_curve(summary: Summary) -> Chart | None:
    """Good requests a second under the run's first SLO, for a picture that does not move."""
    series = [
        {"key": mode, "label": system(mode).label, "points": points}
        for mode in modes_of(summary)
        if (points := [_good(level) for level in levels_of(summary, mode) if level["goodput"]])
    ]
    if not series:
        return None
    name = summary["levels"][0]["goodput"][0]["slo"]
    y = {"label": f"good requests a second ({name})", "scale": "linear", "format": "count"}
    x = {"label": x_label(summary), "scale": "levels", "format": "count"}
    return {"kind": "xy", "series": series, "x": x, "y": y}


def _good(level: Mapping[str, Any]) -> dict[str, Any]:
    one = level["goodput"][0]
    return {
        "x": level["target"]["value"],
        "y": one["req_s"] or 0.0,
        "label": percent(one["attainment"]),
    }


def _limits(names: Any) -> list[dict[str, Any]]:
    made = []
    for name in names:
        try:
            slo = parse_slo(name)
        except SloError:  # a newer version's preset: the sliders do without
            continue
        made.append({"name": name, "ttft": slo.limit_ms("ttft"), "tpot": slo.limit_ms("tpot")})
    return made


def x_label(summary: Summary) -> str:
    """What levels are counted in."""
    return unit(summary)


def _reference(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:
    """Each mode's requests at the level where the modes are compared."""
    size = summary["verdicts"]["reference_concurrency"]
    found = [(mode, level_at(summary, mode, size)) for mode in modes_of(summary)]
    return [(mode, level["detail"]) for mode, level in found if level]


def cumulative(summary: Summary) -> Chart | None:
    """Share of requests (of gaps, for ITL) at most so slow."""
    y = {"label": "share at most so slow", "scale": "linear", "format": "percent", "max": 1}
    return _distributions(summary, _steps, y)


def histogram(summary: Summary) -> Chart | None:
    """Share of requests per twelfth of a decade."""
    y = {"label": "share of requests in a bin", "scale": "linear", "format": "percent"}
    return _distributions(summary, _bars, y)


def _distributions(summary: Summary, points: Any, y: Chart) -> Chart | None:
    views: list[Chart] = []
    for metric, name in NAMES.items():
        series: list[Chart] = [
            {"key": mode, "label": system(mode).label, "points": points(found["curves"][metric])}
            for mode, found in _reference(summary)
            if found["curves"][metric]["n"] >= FEW
        ]
        x = {"label": f"{name} (log scale)", "scale": "log", "format": "ms"}
        if series:
            views.append({"name": name, "series": series, "x": x, "y": y})
    if not views:
        return None
    keys = list(dict.fromkeys(one["key"] for view in views for one in view["series"]))
    return {
        "kind": "xy",
        "plain": True,
        "height": 300,
        "legend": legend(keys, short=True),
        "views": views,
    }


def _steps(curve: Mapping[str, Any]) -> list[dict[str, Any]]:
    shares = [at / (CURVE_POINTS - 1) for at in range(CURVE_POINTS)]
    return [
        {
            "x": value,
            "y": share,
            "tip": f"{percent(share)} within {milliseconds(value)}\nn = {curve['n']:,}",
        }
        for value, share in zip(curve["quantiles_ms"], shares, strict=True)
        if value > 0
    ]


def _bars(curve: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The outline of the bars: up and down at each edge."""
    points = []
    for at, count in enumerate([0, *curve["counts"], 0], start=curve["first"] - 1):
        share = count / curve["n"]
        low, high = (10 ** (edge / BINS_PER_DECADE) for edge in (at, at + 1))
        tip = f"{milliseconds(low)} to {milliseconds(high)}\n{percent(share)}, {count:,} of {curve['n']:,}"
        points += [{"x": low, "y": share, "tip": tip}, {"x": high, "y": share, "tip": tip}]
    return points[1:-1]


def prompt_scatter(summary: Summary) -> Chart | None:
    """TTFT against prompt length, a dot per request."""
    x = {"label": "prompt tokens", "scale": "linear", "format": "count"}
    y = {"label": "TTFT (log scale)", "scale": "log", "format": "ms"}
    return _dots(summary, "prompt_tokens", "ttft_ms", x, y, states="oc")


def output_scatter(summary: Summary) -> Chart | None:
    """E2E against output length, with the line fitted to it: what a request costs at all, and what a token adds."""
    x = {"label": "output tokens", "scale": "linear", "format": "count"}
    y = {"label": "end-to-end latency", "scale": "linear", "format": "ms"}
    chart = _dots(summary, "output_tokens", "e2e_ms", x, y, states="o")
    for series in chart["series"] if chart else ():
        line = fitted(series["dots"])
        if line is not None:
            far = max(x for x, _ in series["dots"])
            series["fit"] = [[0, line[0]], [far, line[0] + line[1] * far]]
            text = f"{milliseconds(line[0])} + {milliseconds(line[1])} a token"
            series["note"] = f"{system(series['key']).short}: {text}"
    return chart


def fitted(dots: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """(intercept, slope) of the least-squares line; None where all have one length or are too few."""
    xs = [x for x, _ in dots]
    if len(dots) < FEW or min(xs) == max(xs):
        return None
    slope, intercept = np.polyfit(xs, [y for _, y in dots], 1)
    return float(intercept), float(slope)


def _dots(
    summary: Summary, across: str, up: str, x: Chart, y: Chart, *, states: str
) -> Chart | None:
    series: list[Chart] = []
    for mode, found in _reference(summary):
        columns = zip(found[across], found[up], found["state"], strict=True)
        dots = [[a, b] for a, b, state in columns if b and state in states]
        if dots:
            series.append({"key": mode, "label": system(mode).label, "dots": dots})
    if not series:
        return None
    keys = [one["key"] for one in series]
    return {
        "kind": "dots",
        "height": 320,
        "legend": legend(keys, short=True),
        "series": series,
        "x": x,
        "y": y,
    }

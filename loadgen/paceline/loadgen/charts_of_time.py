"""The charts along a time axis or of time itself, as plain objects that charts.js draws. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.loadgen.systems import system
from paceline.loadgen.tables import time_parts
from paceline.loadgen.units import size, size_words
from paceline.loadgen.verdicts import levels_of, modes_of
from paceline.loadgen.wording import milliseconds, percent, seconds

Summary = Mapping[str, Any]
Chart = dict[str, Any]
PARTS = {"queue": "Queue", "prefill": "Prefill", "decode": "Decode", "network": "Network"}


def legend(keys: Sequence[str], *, short: bool = False) -> list[dict[str, str]]:
    """Entries of a chart's legend, for these systems in this order."""
    return [
        {"key": key, "label": system(key).short if short else system(key).label} for key in keys
    ]


def occupancy(summary: Summary) -> Chart | None:
    """Rows at work and rows paid for along the run, one panel per mode, and the client's tokens/s below."""
    panels = []
    for mode in modes_of(summary):
        line = summary["timeline"].get(mode)
        if line is None:
            continue
        full = sum(line["rows"]) / max(1, sum(line["padded_rows"]))
        panels.append(
            {
                "key": mode,
                "label": system(mode).label,
                "note": f"{percent(full)} of the rows paid for did work",
                "short": percent(full),
                "t": line["t_s"],
                "rows": line["rows"],
                "padded": line["padded_rows"],
                "waiting": line["waiting"],
                "rate_t": line["rate_t_s"],
                "tok_s": line["client_tok_s"],
                "levels": line["levels"],
            }
        )
    if not panels:
        return None
    return {"kind": "occupancy", "panels": panels, "legend": legend([p["key"] for p in panels])}


def timeline(summary: Summary) -> Chart | None:
    """One mode a view: TTFT, what was not served and tokens/s of the client over what the server's own series say."""
    views = []
    for mode in modes_of(summary):
        line = summary["timeline"].get(mode)
        if line is None:
            continue
        names: tuple[str, ...] = (
            "t_s",
            "rows",
            "padded_rows",
            "running",
            "waiting",
            "kv_share",
            "rate_t_s",
        )
        names += ("client_tok_s", "levels", "ttft", "preempted", "rejected", "unserved")
        columns = {name: line[name] for name in names}
        views.append(
            {"name": system(mode).short, "key": mode, "label": system(mode).label} | columns
        )
    hero = summary["verdicts"]["hero"]
    views.sort(key=lambda view: view["key"] != hero)
    return {"kind": "timeline", "views": views} if views else None


def lanes(summary: Summary) -> Chart | None:
    """Each request as a bar in the row that served it."""
    panels = []
    for mode in modes_of(summary):
        drawn = summary["lanes"].get(mode)
        if drawn is None:
            continue
        filled = percent(drawn["filled"])
        panels.append(
            {
                "key": mode,
                "label": system(mode).label,
                "note": f"rows at work {filled} of the time",
                "short": filled,
                "seconds": drawn["seconds"],
                "lanes": drawn["rows"],
            }
        )
    if not panels:
        return None
    return {"kind": "lanes", "panels": panels, "legend": legend([p["key"] for p in panels])}


def where(summary: Summary) -> Chart | None:
    """Mean time of a request by phase, stacked; a second view shows shares."""
    entries = [
        (mode, level, parts)
        for mode in modes_of(summary)
        for level in levels_of(summary, mode)
        if (parts := time_parts(level))
    ]
    if not entries:
        return None
    keys = [{"key": key, "label": label} for key, label in PARTS.items()]
    absolute: Chart = {"name": "Time", "rows": _where_rows(entries, shares=False)}
    absolute["x"] = {"label": "mean time of a request", "format": "ms"}
    shared: Chart = {"name": "Share", "rows": _where_rows(entries, shares=True)}
    shared["x"] = {"label": "share of a request's time", "format": "percent", "max": 1}
    return {"kind": "bars", "legend": keys, "views": [shared, absolute], "rowHeight": 20}


def _where_rows(
    entries: Sequence[tuple[str, Mapping[str, Any], dict[str, float]]], *, shares: bool
) -> list[dict[str, Any]]:
    rows = []
    for mode, level, parts in entries:
        total = sum(parts.values()) or 1.0
        lines = [f"{PARTS[key]}: {milliseconds(value)}" for key, value in parts.items()]
        rows.append(
            {
                "key": mode,
                "group": mode,
                "label": f"{system(mode).short} {size(level)}",
                "title": f"{system(mode).label}, {size_words(level)}",
                "parts": [
                    {"key": key, "value": value / total if shares else value}
                    for key, value in parts.items()
                ],
                "text": milliseconds(total),
                "tip": "\n".join(lines),
            }
        )
    return rows


def gantt(summary: Summary) -> Chart | None:
    """One line per system, one bar per phase."""
    lines = []
    for key in dict.fromkeys(phase["lane"] for phase in summary["phases"]):
        bars = [
            phase | {"tip": f"{seconds(phase['start_s'])} to {seconds(phase['end_s'])}"}
            for phase in summary["phases"]
            if phase["lane"] == key
        ]
        lines.append(
            {"key": key, "label": system(key).label, "short": system(key).short, "bars": bars}
        )
    return {"kind": "gantt", "lanes": lines} if lines else None

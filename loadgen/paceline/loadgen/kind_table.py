"""The report's table of a level's figures by the kind of its requests. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.loadgen.bounds import at_least, is_bound
from paceline.loadgen.systems import system
from paceline.loadgen.tables import Row, Table, tail
from paceline.loadgen.units import heading, size
from paceline.loadgen.verdicts import levels_of, modes_of
from paceline.loadgen.wording import milliseconds


def kinds_table(summary: Mapping[str, Any]) -> Table:
    """One row per mode, level and kind; no rows where no level has more than one kind."""
    rows = []
    for mode in modes_of(summary):
        for level in levels_of(summary, mode):
            for at, kind in enumerate(level.get("kinds", ())):
                place = (system(mode).label, size(level))
                rows.append(Row(mode, (*place, *_cells(kind)), at == 0))
    headings = (
        "Mode",
        heading(summary),
        "Kind",
        "Sent",
        "OK",
        "Failed",
        "Missed",
        "Cancelled",
        "Cut",
    )
    latencies = ("TTFT p50", "TTFT tail", "TPOT p50", "TPOT tail", "E2E p50")
    return Table((*headings, *latencies), tuple(rows))


def _cells(kind: Mapping[str, Any]) -> tuple[str, ...]:
    counts = kind["counts"]
    ends = ("missed_deadline", "cancelled_by_plan", "cut")
    failed = counts["failed"] + counts["shed"]
    shown = (counts["sent"], counts["ok"], failed, *(counts[end] for end in ends))
    return (
        kind["kind"] or "load",
        *map(str, shown),
        _median(kind, "ttft_ms"),
        at_least(tail(kind["ttft_ms"]), is_bound(kind, "ttft_ms")),
        _median(kind, "tpot_ms"),
        tail(kind["tpot_ms"]),
        _median(kind, "e2e_ms"),
    )


def _median(kind: Mapping[str, Any], metric: str) -> str:
    return at_least(milliseconds(kind[metric]["median"]), is_bound(kind, metric))

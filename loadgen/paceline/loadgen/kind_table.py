"""The report's table of a level's figures by the kind of its requests. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.loadgen.systems import system
from paceline.loadgen.tables import Row, Table, tail
from paceline.loadgen.verdicts import levels_of, modes_of
from paceline.loadgen.wording import milliseconds


def kinds_table(summary: Mapping[str, Any]) -> Table:
    """One row per mode, level and kind; no rows where no level has more than one kind."""
    rows = []
    for mode in modes_of(summary):
        for level in levels_of(summary, mode):
            for at, kind in enumerate(level.get("kinds", ())):
                place = (system(mode).label, str(level["target"]["value"]))
                rows.append(Row(mode, (*place, *_cells(kind)), at == 0))
    headings = ("Mode", "In flight", "Kind", "Sent", "OK", "Failed", "Missed", "Cancelled", "Cut")
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
        milliseconds(kind["ttft_ms"]["median"]),
        tail(kind["ttft_ms"]),
        milliseconds(kind["tpot_ms"]["median"]),
        tail(kind["tpot_ms"]),
        milliseconds(kind["e2e_ms"]["median"]),
    )

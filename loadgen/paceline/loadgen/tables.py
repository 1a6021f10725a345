"""The report's tables as values: one source for the page, for Markdown and for levels.csv. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paceline.loadgen.bounds import at_least, is_bound
from paceline.loadgen.systems import system
from paceline.loadgen.units import by_rate, heading, is_open, measured, size, size_of
from paceline.loadgen.verdicts import (
    level_at,
    levels_of,
    modes_of,
    tokens_per_second,
)
from paceline.loadgen.wording import (
    NONE,
    milliseconds,
    number,
    percent,
    rate,
    ratio,
    upper,
)

Summary = Mapping[str, Any]
VERSUS = "vs sequential"


@dataclass(frozen=True, slots=True)
class Row:
    """Cells as printed; `key` names the system the row is about, `first` opens a group."""

    key: str
    cells: tuple[str, ...]
    first: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A heading per column and rows of printed cells. The first column is text."""

    headings: tuple[str, ...]
    rows: tuple[Row, ...]

    def without_empty(self, heading: str) -> Table:
        """Without that column, where no row has anything in it."""
        at = self.headings.index(heading)
        if any(row.cells[at] != NONE for row in self.rows):
            return self
        kept = tuple(Row(r.key, r.cells[:at] + r.cells[at + 1 :], r.first) for r in self.rows)
        return Table(self.headings[:at] + self.headings[at + 1 :], kept)

    def markdown(self) -> str:
        """The table as a Markdown pipe table."""
        lines = [self.headings, ("---", *("---:" for _ in self.headings[1:]))]
        lines += [row.cells for row in self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def levels_table(summary: Summary) -> Table:
    """One row per mode and level: what was in flight, what came out, what it felt like."""
    rows = []
    for mode in modes_of(summary):
        for at, level in enumerate(levels_of(summary, mode)):
            rows.append(Row(mode, (system(mode).label, *_level_cells(summary, level)), at == 0))
    headings: tuple[str, ...] = ("Mode", heading(summary), "In flight on average")
    headings += ("Requests", "Output tok/s")
    headings += (VERSUS,)
    headings += ("TTFT p50", "TTFT tail", "TPOT p50", "TPOT tail", "ITL p99", "E2E p50", "E2E tail")
    headings += ("Rows per step", "Padding", "KV peak", "Server busy", "Steady", "Failed", "Cut")
    headings += ("Cached",)
    if is_open(summary):
        headings += ("Dropped", "Late")
    return _with_ends(Table(headings, tuple(rows)), summary).without_empty(VERSUS)


def _with_ends(table: Table, summary: Summary) -> Table:
    """With columns for missed deadlines and planned cancels, where there are any."""
    levels = [level for mode in modes_of(summary) for level in levels_of(summary, mode)]
    for key, name in (("missed_deadline", "Missed"), ("cancelled_by_plan", "Cancelled")):
        counts = [level["counts"][key] for level in levels]
        if any(counts):
            rows = tuple(
                Row(row.key, (*row.cells, str(count)), row.first)
                for row, count in zip(table.rows, counts, strict=True)
            )
            table = Table((*table.headings, name), rows)
    return table


def _level_cells(summary: Summary, level: Mapping[str, Any]) -> tuple[str, ...]:
    latency, server, counts = level["latency"], level["server"], level["counts"]
    value = tokens_per_second(level)
    base = tokens_per_second(level_at(summary, "sequential", level["target"]["value"]))
    total = server.get("kv_pages_total")
    return (
        size(level),
        number(level["achieved"]["concurrency"], 1),
        str(counts["ok"]),
        rate(value),
        ratio(value / base) if value and base else NONE,
        median(level, "ttft_ms"),
        level_tail(level, "ttft_ms"),
        median(level, "tpot_ms"),
        level_tail(level, "tpot_ms"),
        milliseconds(latency["itl_ms"]["p99"]),
        median(level, "e2e_ms"),
        level_tail(level, "e2e_ms"),
        number(server.get("batch_mean"), 1),
        percent(server.get("padding_waste")),
        percent(server["kv_pages_peak"] / total) if total else NONE,
        percent(server.get("busy_share")),
        _steady(level),
        str(counts["failed"] + counts["shed"]),
        str(counts["cut"]),
        percent(cached_share(level)),
        *_unkept(level),
    )


def _unkept(level: Mapping[str, Any]) -> tuple[str, ...]:
    """Of an open loop: arrivals that were not sent, and those sent late, with a mark where that degrades the level."""
    if not by_rate(level):
        return ()
    client = level["client"]
    return str(client["dropped"]), f"{client['late']}{' !' if client['dispatch_degraded'] else ''}"


def cached_share(level: Mapping[str, Any]) -> float | None:
    """Share of the prompt tokens that the server's prefix cache had."""
    asked, cached = level["integrity"]["prompt_tokens"], level["integrity"]["cached_tokens"]
    return cached / asked if asked else None


def _steady(level: Mapping[str, Any]) -> str:
    """Whether the level's figures are those of a steady state, or its rates alone."""
    if level["stable"]["verdict"] != "steady":
        return "no"
    return "rates only" if level["lower_bounds"] else "yes"


def median(level: Mapping[str, Any], metric: str) -> str:
    """A median of a level, marked where it is a lower bound."""
    return at_least(
        milliseconds(level["latency"][measured(level, metric)]["median"]), is_bound(level, metric)
    )


def level_tail(level: Mapping[str, Any], metric: str) -> str:
    """`tail` of a level's latency, marked where it is a lower bound."""
    return at_least(tail(level["latency"][measured(level, metric)]), is_bound(level, metric))


def tail(distribution: Mapping[str, Any]) -> str:
    """The highest percentile the sample supports, named: "1.2 s (p95)"."""
    name, value = upper(distribution)
    return NONE if value is None else f"{milliseconds(value)} ({name})"


def short_table(summary: Summary) -> Table:
    """The terminal's and the Markdown report's table: one row per mode and level, the main figures."""
    rows = []
    for mode in modes_of(summary):
        for level in levels_of(summary, mode):
            cells = _level_cells(summary, level)
            rows.append(
                Row(mode, (system(mode).short, *(cells[i] for i in (0, 3, 4, 5, 7, 10, 12, 13))))
            )
    headings: tuple[str, ...] = ("Mode", heading(summary), "Output tok/s", VERSUS)
    headings += ("TTFT p50", "TPOT p50", "E2E p50", "Rows per step", "Padding")
    return Table(headings, tuple(rows)).without_empty(VERSUS)


def padding_table(summary: Summary) -> Table:
    """Padding waste by concurrency and mode."""
    modes = modes_of(summary)
    sizes = sorted({level["target"]["value"] for level in summary["levels"]})
    rows = []
    for value in sizes:
        found = [level_at(summary, mode, value) for mode in modes]
        cells = tuple(percent(one["server"].get("padding_waste")) if one else NONE for one in found)
        rows.append(Row("", (size_of(summary, value), *cells)))
    return Table((heading(summary), *(system(mode).label for mode in modes)), tuple(rows))


def where_table(summary: Summary) -> Table:
    """Mean milliseconds of a request by phase, per mode and level."""
    rows = []
    for mode in modes_of(summary):
        for at, level in enumerate(levels_of(summary, mode)):
            parts = time_parts(level)
            if parts is None:
                continue
            cells = tuple(milliseconds(value) for value in parts.values())
            label = (system(mode).label, size(level))
            rows.append(Row(mode, (*label, *cells, milliseconds(sum(parts.values()))), at == 0))
    headings = ("Mode", heading(summary), "Queue", "Prefill", "Decode", "Network", "Together")
    return Table(headings, tuple(rows))


def time_parts(level: Mapping[str, Any]) -> dict[str, float] | None:
    """Mean milliseconds in queue, prefill, decode and on the network; None where no request ended."""
    server = level["server"]
    means = {
        "queue": server["queue_ms"]["mean"],
        "prefill": server["prefill_ms"]["mean"],
        "decode": server["decode_ms"]["mean"],
    }
    if any(value is None for value in means.values()):
        return None
    return means | {"network": max(0.0, server["remainder_ms"]["mean"] or 0.0)}


def phases_table(summary: Summary) -> Table:
    """What ran when, in seconds since the start."""
    rows = [
        Row(phase["lane"], (system(phase["lane"]).label, phase["label"], *_times(phase)))
        for phase in summary["phases"]
    ]
    return Table(("System", "Phase", "From", "To", "Took"), tuple(rows))


def _times(phase: Mapping[str, Any]) -> tuple[str, str, str]:
    start, end = phase["start_s"], phase["end_s"]
    return f"{start:.1f} s", f"{end:.1f} s", f"{end - start:.1f} s"


def latency_table(summary: Summary) -> Table:
    """The distributions behind the latency charts: mean, median with its interval, percentiles, count."""
    rows = []
    names = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL", "e2e_ms": "E2E"}
    for mode in modes_of(summary):
        for level in levels_of(summary, mode):
            for key, name in names.items():
                spread = level["latency"][measured(level, key)]
                shown = _spread(spread, is_bound(level, key))
                cells = (system(mode).label, size(level), name, *shown)
                rows.append(Row(mode, cells, key == "ttft_ms"))
    headings = ("Mode", heading(summary), "Metric", "n", "Mean", "Median", "95 % interval")
    return Table((*headings, "p90", "p95", "p99", "Max"), tuple(rows))


def _spread(spread: Mapping[str, Any], bound: bool) -> tuple[str, ...]:
    interval = None if bound else spread["median_ci95"]
    between = f"{milliseconds(interval[0])} to {milliseconds(interval[1])}" if interval else NONE
    mean, middle, *shown = (
        at_least(milliseconds(spread[key]), bound)
        for key in ("mean", "median", "p90", "p95", "p99", "max")
    )
    return (f"{spread['n']:,}", mean, middle, between, *shown)

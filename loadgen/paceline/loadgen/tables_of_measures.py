"""The tables of goodput, fairness, client health and single requests. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paceline.loadgen.charts_of_requests import fitted
from paceline.loadgen.fairness import METRICS
from paceline.loadgen.systems import system
from paceline.loadgen.tables import Row, Table
from paceline.loadgen.units import size
from paceline.loadgen.verdicts import level_at, levels_of, modes_of
from paceline.loadgen.wording import NONE, milliseconds, number, percent, rate, ratio

Summary = Mapping[str, Any]
Level = Mapping[str, Any]


def _levels(summary: Summary) -> Iterator[tuple[str, Level, bool]]:
    for mode in modes_of(summary):
        for at, level in enumerate(levels_of(summary, mode)):
            yield mode, level, at == 0


def goodput_table(summary: Summary) -> Table:
    """Attainment and goodput per level and SLO, shed and failed requests counted as misses."""
    rows = []
    for mode, level, first in _levels(summary):
        for at, one in enumerate(level["goodput"]):
            passes = {True: "yes", False: "no", None: "n too small"}[one["passes"]]
            cells = (
                system(mode).label,
                size(level),
                one["slo"],
                f"{one['good']} of {one['judged']}",
                percent(one["attainment"]),
                _shares(one["attainment_ci95"]),
                number(one["req_s"], 2),
                number(one["tok_s"], 1),
                passes,
            )
            rows.append(Row(mode, cells, first and at == 0))
    headings: tuple[str, ...] = ("Mode", "Level", "SLO", "Good", "Attainment", "95 % interval")
    return Table((*headings, "Goodput req/s", "Good tok/s", "Passes"), tuple(rows))


def _shares(interval: list[float] | None) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}" if interval else NONE


def fairness_table(summary: Summary) -> Table:
    """Median latencies of the requests with the shortest to the longest prompts, and of each kind."""
    rows = []
    for mode, level, _ in _levels(summary):
        for part, name in (("by_prompt", "prompt of"), ("by_kind", "kind")):
            found = level["fairness"][part]
            for at, group in enumerate(found["groups"] if found else ()):
                who = (system(mode).label, size(level), f"{name} {group['group']}", str(group["n"]))
                times = (milliseconds(group[key]) for key in METRICS)
                ratios = [ratio(found["ratio"][key]) for key in ("ttft_ms", "tpot_ms")]
                rows.append(Row(mode, (*who, *times, *(ratios if at == 0 else ("", ""))), at == 0))
    headings: tuple[str, ...] = ("Mode", "Level", "Requests with", "n", "TTFT p50", "TPOT p50")
    return Table((*headings, "E2E per token", "TTFT max/median", "TPOT max/median"), tuple(rows))


def health_table(summary: Summary) -> Table:
    """Whether the load generator kept up: CPU, lateness, Little's law, what was in flight, token integrity."""
    rows = []
    for mode, level, first in _levels(summary):
        client, law = level["client"], level["achieved"]["littles_law"]
        late = client["dispatch_ms"]
        odd = level["integrity"]["token_mismatch"] + level["integrity"]["sequence_gaps"]
        cells = (
            system(mode).label,
            size(level),
            _cpu(client["cpu_pct"]),
            milliseconds(late["median"]),
            milliseconds(late["p99"] if late["p99"] is not None else late["max"]),
            number(level["achieved"]["concurrency"], 1),
            _law(law),
            str(odd),
            level["limit"]["who"],
        )
        rows.append(Row(mode, cells, first))
    headings: tuple[str, ...] = ("Mode", "Level", "Client CPU", "Delay p50", "Delay p99")
    return Table((*headings, "In flight", "Little's law", "Token errors", "Limit"), tuple(rows))


def _cpu(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f}\u00a0%"


def _law(law: Mapping[str, Any] | None) -> str:
    if law is None or law["error"] is None:
        return NONE
    sign = "" if law["ok"] else " !"
    return f"{percent(law['error'])} off, {percent(law['tolerance'])} allowed{sign}"


def timeline_table(summary: Summary) -> Table:
    """What the timeline shows, per level of each mode."""
    rows = []
    for mode, level, first in _levels(summary):
        server, total = level["server"], level["server"].get("kv_pages_total")
        window = level["phases"].get("window")
        span = f"{window['start_s']:.0f} to {window['end_s']:.0f} s" if window else NONE
        cells = (
            system(mode).label,
            size(level),
            span,
            milliseconds(level["latency"]["ttft_ms"]["median"]),
            rate(level["throughput"]["output_tok_s"]),
            number(level["achieved"]["concurrency"], 1),
            number(server.get("waiting_max")),
            number(server.get("batch_mean"), 1),
            percent(server.get("padding_waste")),
            percent(server["kv_pages_peak"] / total) if total else NONE,
            number(server.get("preemptions")),
            str(level["counts"]["shed"]),
            str(level["counts"]["failed"]),
        )
        rows.append(Row(mode, cells, first))
    headings: tuple[str, ...] = ("Mode", "Level", "Window", "TTFT p50", "Output tok/s", "In flight")
    headings += ("Most waiting", "Rows per step", "Padding", "KV peak")
    return Table((*headings, "Preemptions", "Shed", "Failed"), tuple(rows))


def at_reference(table: Table, summary: Summary) -> Table:
    """Of a table whose second column is the level: the rows of the level where the modes are compared."""
    level = summary["verdicts"]["reference_concurrency"]
    wanted = {f"{level:g}", f"{level:g}/s"} if level is not None else set()
    return Table(table.headings, tuple(row for row in table.rows if row.cells[1] in wanted))


def speed_table(summary: Summary) -> Table:
    """What one reader sees: tokens a second, median and slowest tenth, and latency per token of the whole answer."""
    rows = []
    for mode, level, first in _levels(summary):
        speed, whole = level["latency"]["interactivity_tok_s"], level["latency"]["norm_ms_per_tok"]
        cells = (
            system(mode).label,
            size(level),
            number(speed["median"], 1),
            number(speed["p10"], 1),
            milliseconds(whole["median"]),
            milliseconds(level["latency"]["stall_ms"]["median"]),
            milliseconds(level["latency"]["ttft_sched_ms"]["median"]),
            milliseconds(level["latency"]["e2e_sched_ms"]["median"]),
        )
        rows.append(Row(mode, cells, first))
    headings: tuple[str, ...] = ("Mode", "Level", "Tok/s per reader p50", "Slowest tenth")
    headings += (
        "E2E per token p50",
        "Longest stall p50",
        "TTFT from schedule",
        "E2E from schedule",
    )
    return Table(headings, tuple(rows))


def fit_table(summary: Summary) -> Table:
    """The lines fitted to E2E against output length, at the level where the modes are compared."""
    rows = []
    for mode in modes_of(summary):
        level = level_at(summary, mode, summary["verdicts"]["reference_concurrency"])
        found = level["detail"] if level else {"output_tokens": [], "e2e_ms": [], "state": ""}
        columns = zip(found["output_tokens"], found["e2e_ms"], found["state"], strict=True)
        line = fitted([(a, b) for a, b, state in columns if b and state == "o"])
        if line:
            cells = (system(mode).label, milliseconds(line[0]), milliseconds(line[1]))
            rows.append(Row(mode, cells))
    return Table(("Mode", "At no token", "Per token"), tuple(rows))

"""From what a run wrote down to `summary.json`: the one object that every report page is made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paceline.loadgen.client_health import client_figures, limit_of
from paceline.loadgen.repeats import joined, middle_one
from paceline.loadgen.series import Sample, between, server_figures
from paceline.loadgen.slo import DEFAULT, parse_slo
from paceline.loadgen.statistics import group_levels, summarise_level
from paceline.loadgen.timeline import lanes, level_spans, occupancy
from paceline.loadgen.timing import Record
from paceline.loadgen.verdicts import verdicts

SCHEMA_VERSION = 3
LANE_LEVEL = 8


@dataclass(slots=True)
class ModeRun:
    """One mode's part of a run: records and samples as written, and how its server was started."""

    mode: str
    records: list[Record] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    startup_s: float | None = None
    command: list[str] = field(default_factory=list)
    server: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    memory_peak_mib: float | None = None
    error: str | None = None
    health: list[Sample] = field(default_factory=list)  # of the load generator
    repeat: int = 0


@dataclass(slots=True)
class RunData:
    """Everything a run left. Moments are `time.perf_counter()` seconds; `started` is the run's own zero."""

    run: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    work: dict[str, Any]  # {"requests", "output_tokens"}: what "total time" is the time for
    started: float = 0.0
    modes: list[ModeRun] = field(default_factory=list)
    baselines: list[dict[str, Any]] = field(default_factory=list)
    phases: list[dict[str, Any]] = field(default_factory=list)


def build_summary(data: RunData) -> dict[str, Any]:
    """The summary as JSON values: every moment counts in seconds from the start of the run."""
    first = [mode for mode in data.modes if mode.repeat == 0]
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run": data.run,
        "fingerprint": _fingerprint(data),
        "config": data.config,
        "environment": data.environment,
        "work": data.work,
        "systems": [_system(mode) for mode in first],
        "levels": _joined_levels(data),
        "baselines": _baselines(data),
        "timeline": _timelines(data),
        "lanes": _lanes(first),
        "phases": sorted(data.phases + _level_phases(data), key=lambda phase: phase["start_s"]),
    }
    summary["verdicts"] = verdicts(summary)
    return summary


def _fingerprint(data: RunData) -> dict[str, Any]:
    """What two runs must share to be compared."""
    seen = next((mode for mode in data.modes if mode.model), None)
    model: Mapping[str, Any] = seen.model if seen else {}
    server: Mapping[str, Any] = seen.server if seen else {}
    return {
        "model": model.get("name"),
        "architecture": model.get("architecture"),
        "dtype": model.get("dtype"),
        "device": server.get("device"),
        "threads": server.get("num_threads"),
        "max_batch_size": server.get("max_batch_size"),
        "workload": data.run.get("workload"),
        "schedule_sha256": data.run.get("schedule_sha256"),
        "seed": data.run.get("seed"),
    } | _arrivals(data)


def _arrivals(data: RunData) -> dict[str, Any]:
    opened = [one for one in (data.run.get("open") or {}).values() if one]
    return {"arrival": opened[0]["arrival"]} if opened else {}


def _system(mode: ModeRun) -> dict[str, Any]:
    return {
        "mode": mode.mode,
        "command": mode.command,
        "startup_s": mode.startup_s,
        "memory_peak_mib": mode.memory_peak_mib,
        "server": mode.server,
        "model": mode.model,
        "requests": len(mode.records),
        "error": mode.error,
        "whole_run": server_figures(mode.samples),
    }


def _joined_levels(data: RunData) -> list[dict[str, Any]]:
    """Each level once, in the order in which modes and levels were first measured."""
    found: dict[tuple[str, float], dict[int, dict[str, Any]]] = {}
    for mode in sorted(data.modes, key=lambda one: one.repeat):
        for level in _levels(mode, data):
            place = (mode.mode, level["target"]["value"])
            found.setdefault(place, {})[mode.repeat + 1] = level
    return [joined(levels) for levels in found.values()]


def _levels(mode: ModeRun, data: RunData) -> list[dict[str, Any]]:
    made = []
    slos = [parse_slo(text) for text in data.run.get("slo") or DEFAULT]
    grouped = group_levels(mode.records)
    for target, records in grouped.items():
        level = summarise_level(records, target, seed=data.run.get("seed") or 0, slos=slos)
        window = level["phases"].get("window")
        inside = between(mode.samples, window["start_s"], window["end_s"]) if window else []
        level["server"] |= server_figures(inside)
        level["client"] |= _client(mode, window, inside)
        level["limit"] = limit_of(level["server"], level["client"])
        level["phases"] = {
            name: {edge: moment - data.started for edge, moment in span.items()}
            for name, span in level["phases"].items()
        }
        output = (level["throughput"] or {}).get("output_tok_s")
        level["total_time_s"] = data.work["output_tokens"] / output if output else None
        made.append({"mode": mode.mode} | level)
    return made


def _client(
    mode: ModeRun, window: Mapping[str, float] | None, samples: Sequence[Sample]
) -> dict[str, Any]:
    """How the load generator fared in the window; where it did not say, its CPU as the bench saw it from outside."""
    own = between(mode.health, window["start_s"], window["end_s"]) if window else []
    figures = client_figures(own)
    seen = [s["client_cpu_pct"] for s in samples if s.get("client_cpu_pct") is not None]
    if figures["cpu_pct"] is None and seen:
        figures["cpu_pct"] = sum(seen) / len(seen)
    return figures


def _baselines(data: RunData) -> list[dict[str, Any]]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for point in data.baselines:
        made = _baseline(point, data.work["output_tokens"])
        found.setdefault((point["system"], point["batch_size"]), []).append(made)
    return [middle_one(found[key], lambda one: one["output_tok_s"]) for key in sorted(found)]


def _baseline(point: Mapping[str, Any], work_tokens: int) -> dict[str, Any]:
    latencies = sorted(point["latency_s"])
    rate = point["output_tokens"] / point["wall_s"] if point["wall_s"] else None
    return {
        "system": point["system"],
        "batch_size": point["batch_size"],
        "requests": point["requests"],
        "output_tokens": point["output_tokens"],
        "total_time_s": work_tokens / rate if rate else None,
        "output_tok_s": rate,
        "latency_ms": {
            "n": len(latencies),
            "mean": 1e3 * sum(latencies) / len(latencies) if latencies else None,
            "median": 1e3 * latencies[len(latencies) // 2] if latencies else None,
            "max": 1e3 * latencies[-1] if latencies else None,
        },
        "padding_waste": point.get("padding_waste"),
    }


def _timelines(data: RunData) -> dict[str, Any]:
    made = {}
    for mode in data.modes:
        if mode.repeat:
            continue  # one time axis shows one measurement
        line = occupancy(mode.samples, mode.records)
        if line is None:
            continue
        start = line["start_s"]
        line["start_s"] = start - data.started
        line["levels"] = [
            {"level": level, "start_s": round(begin - start, 2), "end_s": round(end - start, 2)}
            for level, begin, end in level_spans(mode.records)
        ]
        made[mode.mode] = line
    return made


def _lanes(modes: Sequence[ModeRun]) -> dict[str, Any]:
    """Every mode at one level that all of them ran: the largest of at most eight rows, so that rows stay visible."""
    if any(record.rate is not None for mode in modes for record in mode.records):
        return {}  # an open loop keeps no number of rows
    per_mode = [{record.level for record in mode.records} for mode in modes if mode.records]
    shared = set.intersection(*per_mode) if per_mode else set()
    several = sorted(level for level in shared if level > 1)
    if not several:
        return {}
    level = max((level for level in several if level <= LANE_LEVEL), default=several[0])
    return lanes({mode.mode: mode.records for mode in modes}, level)


def _level_phases(data: RunData) -> list[dict[str, Any]]:
    return [
        {
            "lane": mode.mode,
            "kind": "level",
            "label": f"{level:g} per second" if data.run.get("open") else f"{level:g} in flight",
            "short": f"{level:g}",
            "start_s": begin - data.started,
            "end_s": end - data.started,
        }
        for mode in data.modes
        for level, begin, end in level_spans(mode.records)
    ]

"""A complete synthetic run as the bench hands it to the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loadgen.synthetic import Simulation, baseline_points
from paceline.loadgen.summary import ModeRun, RunData, build_summary
from paceline.loadgen.timing import Record

LEVELS = [1, 2, 4, 8, 16, 32]
MODES = ["sequential", "static", "dynamic", "continuous"]


def sample_data(
    modes: list[str] | None = None,
    levels: list[int] | None = None,
    *,
    level_s: float = 14.0,
    workload: str = "chat",
    partial: bool = False,
    baselines: bool = True,
    slo: list[str] | None = None,
) -> RunData:
    """Records, samples, baselines and phases of a run of the simulated server."""
    levels = levels or LEVELS
    data = RunData(
        run={
            "id": "20260201-101500-synthetic",
            "started_at": "2026-02-01 10:15:00 UTC",
            "duration_s": 512.0,
            "command": "paceline bench --concurrency 1,2,4,8,16,32",
            "seed": 7,
            "workload": workload,
            "schedule_sha256": "5f2c" * 16,
            "slo": slo or ["llama2-70b-server", "llama2-70b-interactive"],
            "quick": False,
            "partial": partial,
            "partial_reason": "stopped by Ctrl-C" if partial else None,
            "notes": [],
        },
        config={"concurrency": levels, "modes": modes or MODES, "level_max_s": level_s},
        environment={"cpu": "AMD EPYC 9575F, 2 cores", "python": "3.11.2", "torch": "2.13.0"},
        work={
            "requests": 32,
            "output_tokens": 1142,
            "max_tokens": {"min": 8, "median": 24, "max": 96},
        },
    )
    clock = 1000.0
    data.started = clock
    if baselines:
        clock = _add_baselines(data, clock)
    for mode in modes or MODES:
        clock = _add_mode(data, mode, clock, levels, level_s)
    return data


def _add_baselines(data: RunData, clock: float) -> float:
    data.baselines = baseline_points(LEVELS)
    data.work["output_tokens"] = data.baselines[0]["output_tokens"]
    for point in data.baselines:
        size = point["batch_size"]
        phase = _phase(
            point["system"], "level", f"batches of {size}", str(size), clock - data.started
        )
        clock += point["wall_s"]
        data.phases.append(phase | {"end_s": clock - data.started})
    return clock + 1


def _add_mode(data: RunData, mode: str, clock: float, levels: list[int], level_s: float) -> float:
    setup = _phase(mode, "setup", "server starts", "", clock - data.started)
    data.phases.append(setup | {"end_s": clock + 7.5 - data.started})
    simulation = Simulation(mode, start_s=clock + 7.5)
    records, samples = simulation.run(levels, level_s)
    for sample in samples:
        sample |= {"client_cpu_pct": 21.0, "server_cpu_pct": 140.0, "server_rss_mib": 1030.0}
    run = ModeRun(
        mode,
        [Record.from_json(line) for line in records],
        samples,
        7.5,
        ["paceline", "serve", "--mode", mode],
    )
    run.server = {
        "mode": mode,
        "max_batch_size": 32,
        "page_size": 16,
        "device": "cpu",
        "num_threads": 2,
    }
    run.model = {"name": "SmolLM2-135M-Instruct", "dtype": "bfloat16", "architecture": "llama"}
    run.memory_peak_mib = 1042.0
    data.modes.append(run)
    stop = _phase(mode, "drain", "server stops", "", simulation.now - data.started)
    data.phases.append(stop | {"end_s": simulation.now + 0.8 - data.started})
    return simulation.now + 1


def _phase(lane: str, kind: str, label: str, short: str, start_s: float) -> dict[str, Any]:
    return {"lane": lane, "kind": kind, "label": label, "short": short, "start_s": start_s}


def sample_summary(**choices: Any) -> dict[str, Any]:
    """The summary of `sample_data`."""
    return build_summary(sample_data(**choices))


def open_summary(levels: list[int] | None = None, **choices: Any) -> dict[str, Any]:
    """As if the levels had been rates and each request had been sent just when it was due; no baselines."""
    data = sample_data(["continuous"], levels, baselines=False, **choices)
    for mode in data.modes:
        mode.records = [
            replace(one, t_int=one.t_send, rate=float(one.level)) for one in mode.records
        ]
        told = {"arrival": "poisson", "saturation_req_s": 40.0, "levels": [], "search": None}
        data.run["open"] = {mode.mode: told}
    return build_summary(data)

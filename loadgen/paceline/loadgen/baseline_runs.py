"""The two `transformers` baselines as a child process: `paceline baseline` on the very prompts the modes get."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from paceline.loadgen.bench_options import BenchOptions
from paceline.loadgen.bench_plan import Plan
from paceline.loadgen.children import Child
from paceline.loadgen.progress import Cell, Progress
from paceline.loadgen.systems import BASELINES
from paceline.loadgen.workload import offline_lines

LOOK_S = 0.2
LENIENCE = 1.3  # small batches may take longer than their share, large ones take less


def write_prompts(
    options: BenchOptions, plan: Plan, path: Path, *, context_tokens: int = 0
) -> dict[str, Any]:
    """The baselines' prompts as an offline file; how much work they are."""
    workload = options.mix.workload_of(
        options.workload,
        seed=options.seed,
        tokens_scale=plan.tokens_scale,
        context_tokens=context_tokens,
    )
    lines = list(offline_lines(workload, plan.baseline_requests))
    path.write_text("".join(lines), encoding="utf-8")
    lengths = sorted(json.loads(line)["max_tokens"] for line in lines)
    return {
        "requests": len(lines),
        "output_tokens": sum(lengths),
        "max_tokens": {
            "min": lengths[0],
            "median": lengths[len(lengths) // 2],
            "max": lengths[-1],
        },
        "workload": workload.notes,
    }


class BaselineRun:
    """Runs the baselines until they are done or their time is over; `points` holds what came, with its moments."""

    def __init__(
        self, options: BenchOptions, plan: Plan, prompts: Path, folder: Path, *, limit_s: float
    ) -> None:
        self.points: list[dict[str, Any]] = []
        self.moments_s: list[float] = []
        self.started_s = 0.0
        self.note: str | None = None
        self._limit_s = limit_s
        self._output = folder / "baselines.jsonl"
        self._log = folder / "baselines.log"
        self._command = baseline_command(options, plan, prompts)

    def run(self, progress: Progress) -> None:
        """Never raises for a baseline's failure: `note` says in one line what is missing and why."""
        child = Child(self._command, self._log, stdout=self._output)
        self.started_s = child.started_s
        try:
            self._watch(child, progress)
        finally:
            child.stop(5)
            self._take(progress)
        if self.note is None and child.exit_code:
            self.note = f"the transformers baselines failed: {child.last_line()}"

    def _watch(self, child: Child, progress: Progress) -> None:
        while child.exit_code is None:
            time.sleep(LOOK_S)
            self._take(progress)
            if time.perf_counter() - self.started_s > self._limit_s:
                made = len(self.points)
                self.note = (
                    f"the transformers baselines were stopped after {made} batch sizes: out of time"
                )
                return

    def _take(self, progress: Progress) -> None:
        points = read_points(self._output)
        for point in points[len(self.points) :]:
            self.moments_s.append(time.perf_counter())
            self.points.append(point)
            rate = point["output_tokens"] / point["wall_s"] if point["wall_s"] else None
            progress.set(point["system"], point["batch_size"], Cell("done", tok_s=rate))

    def phases(self, zero_s: float) -> list[dict[str, Any]]:
        """When each batch size ran, in seconds since `zero_s`; loading is a phase of its own."""
        made: list[dict[str, Any]] = []
        last = self.started_s
        for point, moment in zip(self.points, self.moments_s, strict=True):
            size = point["batch_size"]
            begin = max(last, moment - point["wall_s"])
            if not made:
                made.append(_phase(point["system"], "setup", "loading", "", last, begin, zero_s))
            label = f"batches of {size}" if size > 1 else "one at a time"
            made.append(_phase(point["system"], "level", label, str(size), begin, moment, zero_s))
            last = moment
        return made


def _phase(
    lane: str, kind: str, label: str, short: str, start_s: float, end_s: float, zero_s: float
) -> dict[str, Any]:
    times = {"start_s": start_s - zero_s, "end_s": end_s - zero_s}
    return {"lane": lane, "kind": kind, "label": label, "short": short} | times


def baseline_command(options: BenchOptions, plan: Plan, prompts: Path) -> list[str]:
    """`paceline baseline` as a child of this very interpreter."""
    command = [sys.executable, "-m", "paceline.client.cli", "baseline", str(prompts)]
    # Largest first: it is the quickest and says the most, should time run out.
    sizes = sorted(plan.baseline_sizes, reverse=True)
    command += ["--batch-sizes", ",".join(map(str, sizes))]
    each_s = plan.baseline_s / (1 + len(plan.baseline_sizes)) * LENIENCE
    return [*command, "--max-seconds", f"{each_s:.1f}", *options.model_arguments]


def read_points(path: Path) -> list[dict[str, Any]]:
    """The baselines' results so far; other lines of their output are left out."""
    if not path.exists():
        return []
    points = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.startswith("{") or not line.endswith("\n"):
            continue
        point = json.loads(line)
        if point.get("system") in BASELINES:
            points.append(point)
    return points

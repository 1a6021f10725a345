"""The bench: every mode's sweep, then the baselines, then the report. What was measured is always kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paceline.loadgen.baseline_runs import BaselineRun, write_prompts
from paceline.loadgen.bench_options import BenchOptions
from paceline.loadgen.bench_plan import Plan, load_options
from paceline.loadgen.children import Child
from paceline.loadgen.environment import environment
from paceline.loadgen.http_probe import ServerProbe, open_probe
from paceline.loadgen.load_run import LoadRuns
from paceline.loadgen.open_bench import OpenBench
from paceline.loadgen.open_plan import plan_for
from paceline.loadgen.probe import NotServing, Probe
from paceline.loadgen.progress import AT_ONCE, PER_SECOND, Progress
from paceline.loadgen.run_folder import RunFolder
from paceline.loadgen.servers import Server, ServerFailed, start_server
from paceline.loadgen.summary import ModeRun, RunData, build_summary
from paceline.loadgen.sweep import SweepFailed
from paceline.loadgen.systems import BASELINES, system
from paceline.loadgen.workload import NONCES

MIN_BASELINE_S = 20.0
SILENT = (
    "an OpenAI-compatible server: it does not tell queue, prefill, rows per step, padding and memory; tokens of a"
    " message are its own count where it gives one, else an even share of the total at the end"
)


class Bench:
    """One run. `measure` fills `data`, whatever ends it; `report` writes what there is."""

    def __init__(
        self, options: BenchOptions, plan: Plan, folder: RunFolder, progress: Progress
    ) -> None:
        self.options = options
        self.plan = plan
        self.folder = folder
        self.progress = progress
        prompts = folder.raw / "prompts.jsonl"
        self.data = RunData(
            run={
                "id": folder.id,
                "started_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
                "command": options.command,
                "seed": options.seed,
                "nonce": folder.nonce,
                "workload": options.work_name,
                "lengths": None,
                "slo": list(options.slo),
                "open": None if options.open is None else {},
                "schedule_sha256": None,
                "quick": options.quick,
                "repeat": options.repeat,
                "partial": False,
                "partial_reason": None,
                "notes": [],
            },
            config=_config(options, plan),
            environment=environment(),
            work=write_prompts(options, plan, prompts),
            started=time.perf_counter(),
        )
        self._prompts = prompts
        self._repeat, self._begun_s, self._baseline_s = 0, 0.0, 0.0
        self._foreign = options.target is not None
        if self._foreign:
            self.data.environment["placement"] = f"server at {options.target}"

    @property
    def measured(self) -> bool:
        """Whether there is anything to report."""
        return any(mode.records for mode in self.data.modes) or bool(self.data.baselines)

    def measure(self) -> None:
        """Raises ServerFailed where the first server does not come up; else problems become notes."""
        modes = self.options.modes if not self._foreign else (self._foreign_mode(),)
        for repeat in range(self.options.repeat):
            if repeat:
                self.progress.say(f"repeat {repeat + 1} of {self.options.repeat}")
            self._measure_all(modes, repeat)

    def _measure_all(self, modes: Sequence[str], repeat: int) -> None:
        """The whole matrix once, in an order that each repeat turns by one: drift of the machine favours nobody."""
        self._repeat, self._begun_s, self._baseline_s = repeat, self.progress.elapsed_s, 0.0
        for mode in modes:
            self.progress.plan(mode, self._planned, PER_SECOND if self.options.open else AT_ONCE)
        if self.options.baselines:
            self.progress.plan(BASELINES[0], (1,))
            self.progress.plan(BASELINES[1], self.plan.baseline_sizes)
        left = len(modes)
        for part in rotated([*modes, *([BASELINES[0]] if self.options.baselines else [])], repeat):
            if part == BASELINES[0]:
                self._measure_baselines()
                continue
            self.plan = plan_for(self.options, spent_s=self._spent_s, modes_left=left)
            left -= 1
            self._measure_mode(part)

    @property
    def _spent_s(self) -> float:
        """Of this repeat's time; what the baselines took comes from a share of their own."""
        return self.progress.elapsed_s - self._begun_s - self._baseline_s

    @property
    def _planned(self) -> tuple[float, ...]:
        """The levels that are known before anything was measured."""
        return self.options.concurrency if self.options.open is None else self.options.open.rates

    def stop_early(self, reason: str) -> None:
        """Mark the run as partial; the first reason stands."""
        self.data.run["partial"] = True
        self.data.run["partial_reason"] = self.data.run["partial_reason"] or reason

    def report(self) -> dict[str, Any]:
        """Writes every file of the run; the summary."""
        self.progress.say("writing the report")
        self.data.run["duration_s"] = round(time.perf_counter() - self.data.started, 1)
        summary = build_summary(self.data)
        lines = (record.to_json() for mode in self.data.modes for record in mode.records)
        self.folder.write_requests(lines)
        self.folder.write_report(summary)
        return summary

    def _foreign_mode(self) -> str:
        with open_probe(self.options) as probe:
            return str(probe.server()["mode"])

    def _measure_mode(self, mode: str) -> None:
        run = ModeRun(mode, repeat=self._repeat)
        self.data.modes.append(run)
        if self._foreign:
            with open_probe(self.options) as probe:
                self._sweep(run, probe, None)
            return
        self.progress.say(f"starting the {mode} server")
        server = start_server(self.options, mode, self._raw / f"server.{mode}.log")
        run.command = server.child.command
        try:
            with Probe(server.target) as probe:
                self._sweep_own(run, probe, server)
        finally:
            stopping = time.perf_counter()
            server.stop()
            run.memory_peak_mib = server.child.memory_peak_mib
            if run.records:
                self._phase(mode, "drain", "server stops", stopping, time.perf_counter())

    def _sweep_own(self, run: ModeRun, probe: Probe, server: Server) -> None:
        try:
            server.wait_ready(probe)
        except ServerFailed as error:
            run.error = str(error)
            self.stop_early(str(error))
            if not self.measured:
                raise
            return
        run.startup_s = server.startup_s
        ready = server.child.started_s + server.startup_s
        self._phase(run.mode, "setup", "server starts", server.child.started_s, ready)
        self._sweep(run, probe, server)

    def _sweep(self, run: ModeRun, probe: ServerProbe, server: Server | None) -> None:
        child: Child | None = server.child if server else None
        gone: Callable[[], str | None] = server.ended if server else lambda: None
        folder = self._raw / run.mode
        runs = LoadRuns(probe, run.mode, self.folder.series, child, self.progress, gone)
        load = load_options(
            self.options,
            self.plan,
            target=probe.target,
            mode=run.mode,
            out=folder,
            nonce=(self.folder.nonce + self._repeat) % NONCES,
        )
        self.progress.say(f"measuring {system(run.mode).label.lower()}")
        try:
            run.server, run.model = probe.server(), probe.model()
            if not probe.tells_load and SILENT not in self.data.run["notes"]:
                self.data.run["notes"].append(SILENT)
            if self.options.open is None:
                runs.run(load, limit_s=self._limit_s)
            else:
                told: dict[str, Any] = {}
                self.data.run["open"][run.mode] = told
                OpenBench(self.options, self.plan, load, runs, told).run()
        except (SweepFailed, NotServing) as error:
            run.error = str(error)
            self.stop_early(str(error))
        finally:
            run.records = [replace(one, repeat=self._repeat) for one in runs.records]
            run.samples = runs.samples
            run.health = runs.health
            for header in runs.headers:
                self.data.run["schedule_sha256"] = header["schedule_sha256"]
                self._take_lengths(header["lengths"])

    def _take_lengths(self, lengths: dict[str, Any]) -> None:
        """What a server's context did to the lengths; the baselines get the same prompts."""
        if self.data.run["lengths"] is not None:
            return
        self.data.run["lengths"] = lengths
        context = lengths["context_tokens"]
        fits = {f"{used['fit']:g}" for used in lengths["factors"].values()} - {"1"}
        if fits:
            told = f"lengths were scaled by {', '.join(sorted(fits))} to fit a context of {context} tokens"
            self.data.run["notes"].append(told)
            self.data.work = write_prompts(
                self.options, self.plan, self._prompts, context_tokens=context
            )

    @property
    def _limit_s(self) -> float:
        levels = len(self.options.concurrency)
        return 60 + levels * (self.plan.level_max_s + 2 * self.plan.drain_s + 2)

    def _measure_baselines(self) -> None:
        self.progress.say("running the transformers baselines on the same prompts")
        begun_s = self.progress.elapsed_s
        left = self.options.budget_s - (begun_s - self._begun_s)
        limit = max(MIN_BASELINE_S, min(left, self.plan.baseline_s * 1.5))
        baseline = BaselineRun(self.options, self.plan, self._prompts, self._raw, limit_s=limit)
        try:
            baseline.run(self.progress)
        finally:
            self._baseline_s = self.progress.elapsed_s - begun_s
            self.data.baselines += baseline.points
            self.data.phases += baseline.phases(self.data.started)
            if baseline.note and baseline.note not in self.data.run["notes"]:
                self.data.run["notes"].append(baseline.note)

    @property
    def _raw(self) -> Path:
        """What the children of this repeat write."""
        if not self._repeat:
            return self.folder.raw
        folder = self.folder.raw / f"repeat-{self._repeat + 1}"
        folder.mkdir(exist_ok=True)
        return folder

    def _phase(self, lane: str, kind: str, label: str, start_s: float, end_s: float) -> None:
        zero = self.data.started
        self.data.phases.append(
            {"lane": lane, "kind": kind, "label": label, "short": ""}
            | {"start_s": start_s - zero, "end_s": end_s - zero}
        )


def rotated(parts: Sequence[str], by: int) -> list[str]:
    """The same parts from the `by`-th on, the others after them."""
    at = by % len(parts)
    return [*parts[at:], *parts[:at]]


def _config(options: BenchOptions, plan: Plan) -> dict[str, Any]:
    values = {**asdict(replace(options, out=Path("."))), "plan": asdict(plan)}
    if options.open is None:
        del values["open"]
    for name in ("api_key", "insecure"):  # the one is a secret, the other changes no number
        values["access"].pop(name)
    for name in ("out", "command", "workload", "seed"):
        del values[name]
    return values

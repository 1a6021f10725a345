"""One run of the load: Locust as a child process, the server's load beside it, progress from what both write."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path

from paceline.loadgen.children import Child
from paceline.loadgen.command import command_line
from paceline.loadgen.http_probe import ServerProbe
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.outcomes import outcome
from paceline.loadgen.progress import AT_ONCE, PER_SECOND, Cell, Progress
from paceline.loadgen.recorder import Reader
from paceline.loadgen.series import LoadPoller, Sample
from paceline.loadgen.statistics import target_of
from paceline.loadgen.timing import Record, without_probes

LOOK_S = 0.25
TELL_S = 1.0
SILENT_S = 5.0
SPEED_S = 2.0
STAGE = re.compile(r"(?:level|rate) ([\d.e+-]+): (ramp|open|drain|cutting|done)")


class SweepFailed(Exception):
    """The load could not go on; the text is one line that says why. What was recorded stays."""


class Sweep:
    """Runs the levels of `load`. `run` blocks until they are done; records lie in `folder`."""

    def __init__(
        self,
        load: LoadOptions,
        probe: ServerProbe,
        mode: str,
        folder: Path,
        *,
        series: Path,
        server: Child | None,
        limit_s: float,
        quiet: bool = False,
    ) -> None:
        self.folder = folder
        self.samples: list[Sample] = []
        self._mode = mode
        self._probe = probe
        self._server = server
        self._load = load
        self._limit_s = limit_s
        self._quiet = quiet
        self._locust: Child | None = None
        self._reader = Reader(folder)
        self._poller = LoadPoller(self._read, mode, path=series if probe.tells_load else None)

    def run(self, progress: Progress, gone: Callable[[], str | None]) -> None:
        """Raises SweepFailed when the server is gone or silent, or when Locust breaks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = command_line(self._load, loglevel="INFO")
        self._locust = Child(
            command, self.folder / "locust.log", environment=self._load.access.environment()
        )
        # A server that does not tell its load is asked all the same: whether it still answers.
        self.samples = self._poller.samples if self._probe.tells_load else []
        self._poller.start()
        try:
            self._watch(self._locust, progress, gone)
        finally:
            self._locust.stop()
            self._poller.stop()

    def _watch(self, locust: Child, progress: Progress, gone: Callable[[], str | None]) -> None:
        begun = told = time.perf_counter()
        while locust.exit_code is None:
            time.sleep(LOOK_S)
            if time.perf_counter() - told >= TELL_S:
                self._tell(progress)
                told = time.perf_counter()
            if reason := gone():
                raise SweepFailed(reason)
            if self._poller.silent_s() > SILENT_S:
                raise SweepFailed(f"{self._probe.target} stopped answering")
            if time.perf_counter() - begun > self._limit_s:
                raise SweepFailed(f"the load did not end within {self._limit_s:.0f} s")
        if locust.exit_code:
            raise SweepFailed(f"the load generator failed: {locust.last_line()}")
        self._tell(progress)

    def _read(self) -> Sample:
        sample = self._probe.load()
        if self._locust is not None:
            sample["client_cpu_pct"] = self._locust.usage()[0]
        if self._server is not None:
            sample["server_cpu_pct"], sample["server_rss_mib"] = self._server.usage()
        return sample

    def _tell(self, progress: Progress) -> None:
        """Bring the table of the terminal up to date."""
        if self._quiet:
            return
        stages = stages_of(self.folder / "locust.log")
        self._reader.read()
        records = self._reader.records
        for level, state in stages.items():
            chosen = [one for one in without_probes(records) if target_of(one) == level]
            cell = cell_of(state, chosen)
            cell.unit = self._unit
            if state != "done":
                cell.in_flight, cell.tok_s = self._now()
            else:
                cell.tok_s = mean_rate(chosen)
            progress.set(self._mode, level, cell)

    @property
    def _unit(self) -> str:
        return PER_SECOND if self._load.open_rates else AT_ONCE

    def _now(self) -> tuple[int | None, float | None]:
        """Requests in the server and output tokens/s over the last seconds."""
        if not self.samples:
            return None, None
        last = self.samples[-1]
        recent = [one for one in self.samples if one["t"] >= last["t"] - SPEED_S]
        elapsed = last["t"] - recent[0]["t"]
        made = last["output_tokens"] - recent[0]["output_tokens"]
        return last["running"] + last["waiting"], made / elapsed if elapsed else None


def stages_of(log: Path) -> dict[float, str]:
    """Level and state ("ramp", "open", "drain", "cutting", "done") as far as the load generator's log tells."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {float(level): state for level, state in STAGE.findall(text)}


def cell_of(state: str, records: list[Record]) -> Cell:
    """A level's latencies and counts so far; it is open for its warm-up first."""
    if state == "open" and not any(record.measured for record in records):
        state = "warm-up"
    ended = [record for record in records if not record.cut]
    return Cell(
        state,
        *medians(records),
        ttft_p99_s=_p99([r.ttft_s for r in ended if r.ttft_s is not None]),
        shed=sum(outcome(record) == "shed" for record in ended),
        delay_p99_s=_p99([d for r in records if (d := r.dispatch_delay_s) is not None]),
    )


def _p99(values: list[float]) -> float | None:
    """None of fewer than a hundred, of which nobody knows one."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1] if len(values) >= 100 else None


def medians(records: list[Record]) -> tuple[float | None, float | None]:
    """Median TTFT, from the schedule where there is one, and TPOT in seconds."""
    waits = [r.ttft_due_s for r in records]
    return (
        _median([wait for wait in waits if wait is not None]),
        _median([r.tpot_s for r in records if r.tpot_s is not None]),
    )


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def mean_rate(records: list[Record]) -> float | None:
    """Output tokens a second from the first send to the last end: for the live table, not for the report."""
    if not records:
        return None
    elapsed = max(r.t_end for r in records) - min(r.t_send for r in records)
    return sum(r.counted_tokens for r in records) / elapsed if elapsed > 0 else None

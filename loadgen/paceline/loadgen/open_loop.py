"""Goes through the levels of an open loop. Lives in the master, or in the only process, beside Locust's users."""

from __future__ import annotations

from locust.runners import MasterRunner, Runner

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent

from paceline.loadgen.level_schedules import schedules_of
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.saturation import over_saturated
from paceline.loadgen.schedule import Schedule, digest_of_levels
from paceline.loadgen.shape import LOOK_S, STAGE_MESSAGE
from paceline.loadgen.stage import Progress, Stage

logger = logging.getLogger(__name__)

LEAD_S = 0.5  # for every process to hear of a level and draw its schedule before the first arrival
READY_S = 15.0  # for every process to be connected
UNMEASURED = 0.15  # of a level: in flight it only fills up


class OpenLoop:
    """`run` blocks until the last level is done. Rates above one that was over-saturated are left out."""

    def __init__(
        self, runner: Runner, options: LoadOptions, run_time_s: float | None = None
    ) -> None:
        self._runner = runner
        self._options = options
        self.schedules = schedules_of(options, run_time_s)
        self._workers: dict[str, Progress] = {}
        self._index = -1  # what every process enters when it is ready
        self._phase, self._place, self._begun_s = "ramp", 0, 0.0
        self._warmup = 0
        self._stopped = False

    def take_progress(self, worker: str, message: dict[str, Any]) -> None:
        """A worker's report; one about another level is ignored."""
        progress = Progress(**message)
        if progress.index == self._index:
            self._workers[worker] = progress

    def stop(self) -> None:
        """The run was ended from outside: no level begins after this."""
        self._stopped = True

    @property
    def phase(self) -> str:
        """Of the level that runs: ramp, warm-up, steady, drain; done when all are."""
        warming = self._phase == "steady" and self._told().sent <= self._warmup
        return "warm-up" if warming else self._phase

    def left_s(self) -> float:
        """Seconds that the rest takes at most, drains left out."""
        lengths = [schedule.seconds for schedule in self.schedules[self._place :]]
        if not lengths or self._phase == "done":
            return 0.0
        running = {"ramp": lengths[0], "drain": 0.0}.get(
            self._phase, lengths[0] - (time.perf_counter() - self._begun_s)
        )
        return max(0.0, running) + sum(lengths[1:])

    def run(self) -> bool:
        """Whether it came to its own end."""
        logger.info("arrivals %s: %s", self._options.arrivals, digest_of_levels(self.schedules))
        self._await(lambda: len(self._workers) >= self._processes, READY_S)
        ceiling = float("inf")
        for place, schedule in enumerate(self.schedules):
            if self._stopped:
                return False
            if schedule.rate > ceiling:
                logger.info("rate %g: left out", schedule.rate)
                continue
            self._place = place
            saturated = self._run_level(self._options.first_level + place, schedule)
            if saturated and self._options.over_saturation == "stop":
                ceiling = schedule.rate
        self._phase = "done"
        return not self._stopped

    def _run_level(self, index: int, schedule: Schedule) -> bool:
        """Whether arrivals outran the server."""
        self._index, rate = index, schedule.rate
        self._workers.clear()
        self._enter("ramp", rate)
        self._warmup = schedule.warmup(self._options.level_warmup)
        stage = Stage(
            index=index,
            open=True,
            warmup=self._warmup,
            rate=rate,
            seconds=schedule.seconds,
            start_wall_s=time.time() + LEAD_S,
        )
        start_s = time.perf_counter() + LEAD_S
        workers = self._announce(stage)
        self._begun_s = start_s
        self._enter("steady", rate)
        seen = self._watch(start_s, schedule.seconds)
        self._enter("drain", rate)
        self._announce(replace(stage, open=False))
        self._drain(stage, workers)
        told = self._told()
        saturated = over_saturated(seen, rate)
        logger.info("rate %g: done", rate)
        if told.dropped or told.late:
            logger.warning(
                "rate %g: %d arrivals dropped, %d sent late", rate, told.dropped, told.late
            )
        if saturated:
            logger.warning("rate %g: over-saturated, more requests came than ended", rate)
        return saturated

    def _enter(self, phase: str, rate: float) -> None:
        self._phase = phase
        logger.info("rate %g: %s", rate, {"steady": "open"}.get(phase, phase))

    def _watch(self, start_s: float, seconds: float) -> list[tuple[float, float]]:
        """Requests in flight over the level, its beginning left out."""
        seen: list[tuple[float, float]] = []
        while (now_s := time.perf_counter()) < start_s + seconds and not self._stopped:
            if now_s > start_s + UNMEASURED * seconds:
                seen.append((now_s, self._told().flying))
            gevent.sleep(LOOK_S)
        return seen

    def _drain(self, stage: Stage, workers: int) -> None:
        """Wait for what is in flight; cut what takes longer than it may."""
        for cut in (False, True):
            if cut:
                logger.info("rate %g: cutting what still runs", stage.rate)
                self._announce(replace(stage, open=False, cut=True))
            if self._await(lambda: self._drained(workers), self._options.drain_s):
                return

    def _drained(self, workers: int) -> bool:
        reports = self._workers.values()
        return len(reports) >= workers and not any(p.flying or p.open for p in reports)

    def _await(self, condition: Callable[[], bool], limit_s: float) -> bool:
        until = time.perf_counter() + max(limit_s, 0.5)
        while not condition():
            if time.perf_counter() > until:
                return False
            gevent.sleep(LOOK_S)
        return True

    @property
    def _processes(self) -> int:
        return len(self._runner.clients.all) if isinstance(self._runner, MasterRunner) else 1

    def _told(self) -> Progress:
        """All processes together."""
        reports = self._workers.values()
        return Progress(
            self._index,
            *(
                sum(getattr(p, name) for p in reports)
                for name in ("sent", "ended", "flying", "open", "dropped", "late")
            ),
        )

    def _announce(self, stage: Stage) -> int:
        """Tell every process, each with its own share of the arrivals; how many."""
        if not isinstance(self._runner, MasterRunner):
            self._runner.send_message(STAGE_MESSAGE, stage.to_message())
            return 1
        clients = sorted(self._runner.clients.all, key=lambda client: str(client.id))
        for slot, client in enumerate(clients):
            message = replace(stage, slot=slot, slots=len(clients)).to_message()
            self._runner.send_message(STAGE_MESSAGE, message, client_id=client.id)
        return len(clients)

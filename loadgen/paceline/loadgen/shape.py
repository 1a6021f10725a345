"""The sweep over concurrency levels as a Locust load shape."""

from __future__ import annotations

from locust import LoadTestShape
from locust.runners import MasterRunner, Runner

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import gevent

from paceline.loadgen.options import LoadOptions
from paceline.loadgen.stage import LevelClock, Progress, Stage

logger = logging.getLogger(__name__)

STAGE_MESSAGE = "paceline_stage"
PROGRESS_MESSAGE = "paceline_progress"
LOOK_S = 0.05
USERS_WAIT_S = 30.0
SPAWN_RATE = 100.0  # users a second; Locust warns above it


class LevelShape(LoadTestShape):
    """Goes through `options.concurrency`. Lives in the master, or in the only process.

    Locust asks a shape about once a second, which would blur or skip short levels. So `tick` returns
    only when something is to change: it waits inside through a whole level.
    """

    abstract: ClassVar[bool] = True  # not for Locust to pick up by itself: only with --concurrency

    def __init__(
        self, runner: Runner, options: LoadOptions, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Locust leaves it untyped
        self.runner: Runner = runner
        self._options = options
        self._clock = clock
        self._level_clock: LevelClock | None = None
        self._saved_s = 0.0
        self._index = 0
        self._phase = "ramp"
        self._steps = self._sweep()

    @property
    def phase(self) -> str:
        """Of the level that runs: ramp, warm-up, steady, drain; done when all are."""
        clock = self._level_clock
        if self._phase == "steady" and clock is not None and not clock.measuring:
            return "warm-up"
        return self._phase

    def left_s(self) -> float:
        """Seconds that the rest takes at most, drains left out."""
        rest = len(self._options.concurrency) - self._index - (self._phase != "ramp")
        clock, longest = self._level_clock, self._options.level_max_s
        spent = self._clock() - clock.opened_s if clock is not None else 0.0
        if self._phase == "steady":
            return max(0, rest) * longest + max(0.0, longest + self._saved_s - spent)
        return rest * longest + self._saved_s if rest > 0 else 0.0

    def tick(self) -> tuple[int, float] | None:
        """(users, users a second) of the next level; None when all are done."""
        return next(self._steps, None)

    def restart(self) -> None:
        """Begin with the first level again at the next tick."""
        self._level_clock = None
        self._saved_s = 0.0
        self._index, self._phase = 0, "ramp"
        self._steps = self._sweep()

    def take_progress(self, worker: str, message: dict[str, Any]) -> None:
        """A worker's report."""
        if self._level_clock is not None:
            self._level_clock.take(worker, Progress(**message), self._clock())

    def _sweep(self) -> Iterator[tuple[int, float]]:
        for place, level in enumerate(self._options.concurrency):
            self._index, self._phase = place, "ramp"
            logger.info("level %d: ramp", level)
            yield (
                level,
                SPAWN_RATE,
            )  # Locust starts (or stops) users; they wait for the level to open
            self._await_users(level)
            self._run_level(self._options.first_level + place, level)
        self._phase = "done"

    def _await_users(self, level: int) -> None:
        until = self._clock() + USERS_WAIT_S
        while self.runner.user_count != level:
            if self._clock() > until:
                have = self.runner.user_count
                raise RuntimeError(f"{have} of {level} users after {USERS_WAIT_S:g} s")
            gevent.sleep(LOOK_S)

    def _run_level(self, index: int, level: int) -> None:
        warmup = self._options.warmup_requests(level)
        stage = Stage(index=index, level=level, open=True, warmup=warmup)
        opened_s = self._clock()
        clock = LevelClock(self._options, index, level, opened_s, saved_s=self._saved_s)
        self._level_clock = clock
        logger.info("level %d: open", level)
        self._phase = "steady"
        workers = self._announce(stage)
        self._wait(clock.enough)
        self._phase = "drain"
        logger.info("level %d: drain", level)
        clock.close(self._clock())
        self._saved_s = clock.left_s()
        self._announce(replace(stage, open=False))
        self._wait(lambda now_s: clock.drained(workers) or clock.overdue(now_s))
        if not clock.drained(workers):
            logger.info("level %d: cutting what still runs", level)
            self._announce(replace(stage, open=False, cut=True))
            clock.close(self._clock())
            self._wait(lambda now_s: clock.drained(workers) or clock.overdue(now_s))
        logger.info("level %d: done", level)

    def _wait(self, over: Callable[[float], bool]) -> None:
        while not over(self._clock()):
            gevent.sleep(LOOK_S)

    def _announce(self, stage: Stage) -> int:
        """Tell every process that has users, each with its own share of the requests; how many."""
        if not isinstance(self.runner, MasterRunner):
            self.runner.send_message(STAGE_MESSAGE, stage.to_message())
            return 1
        clients = [client for client in self.runner.clients.all if client.user_count > 0]
        for slot, client in enumerate(clients):
            message = replace(stage, slot=slot, slots=len(clients)).to_message()
            self.runner.send_message(STAGE_MESSAGE, message, client_id=client.id)
        return len(clients)

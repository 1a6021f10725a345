"""Steps on their way: planned, launched, read back.

Where the device computes beside Python, a step is launched before the one before it is read back, so that the device
has work while the host reads, delivers and plans.
"""

from __future__ import annotations

import logging
import uuid
from bisect import bisect_left
from collections.abc import Callable

from .door import Door
from .errors import EngineFailure, StepOutOfMemory
from .request import STEP_SECONDS, Output
from .runner_port import Runner
from .scheduler import Scheduler
from .step import Step

logger = logging.getLogger(__name__)


class Pipeline:
    """Owns the step in flight. Belongs to the engine's thread.

    Args:
        ahead: whether to launch a step before the one before it is read back.

    Attributes:
        worked: whether the latest turn computed something, or left it in flight.
        seconds: that all turns took.
        bins: turns by their time, see `STEP_SECONDS`.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        door: Door,
        clock: Callable[[], float],
        *,
        ahead: bool,
    ) -> None:
        self.worked = False
        self.seconds = 0.0
        self.bins = [0] * (len(STEP_SECONDS) + 1)
        self._runner = runner
        self._scheduler = scheduler
        self._door = door
        self._clock = clock
        self._ahead = ahead
        self._in_flight: tuple[Step, object] | None = None  # launched, and not collected yet
        self._failed = False  # whether a step of the latest turn went wrong

    def turn(self) -> list[Output]:
        """Launches the next step and reads back the one before it, or where steps wait, itself."""
        started = self._clock()
        step = self._scheduler.plan(started)
        self._door.planned(self._scheduler.waiting, started)
        self.worked = step is not None or self._in_flight is not None
        if not self.worked:
            return []
        self._failed = False
        try:
            launched = None if step is None else (step, self._runner.launch(step))
        except Exception as exc:
            assert step is not None
            outputs = self._collect() + self._give_up(step, exc)
        else:
            outputs = self._collect()
            self._in_flight = launched
            # After a failure nothing is planned behind a step that was planned before it: it may fail
            # as well, and would take the next one along, and so on.
            if self._failed or not self._ahead:
                outputs += self._collect()
        took = self._clock() - started
        self.seconds += took
        self.bins[bisect_left(STEP_SECONDS, took)] += 1
        return outputs

    def _collect(self) -> list[Output]:
        """Reads back the step in flight, if there is one."""
        if self._in_flight is None:
            return []
        (step, handle), self._in_flight = self._in_flight, None
        try:
            sampled = self._runner.collect(handle)
            return self._scheduler.apply(step, sampled, self._clock())
        except Exception as exc:
            return self._give_up(step, exc)

    def _give_up(self, step: Step, cause: Exception) -> list[Output]:
        self._failed = True
        if isinstance(cause, StepOutOfMemory):
            outputs = self._scheduler.out_of_memory(step, self._clock())
            logger.warning(
                "a step of %d rows and %d tokens ran out of memory; from now on at most %d and %d",
                len(step.rows),
                step.padded_tokens,
                self._scheduler.bounds.rows,
                self._scheduler.bounds.tokens,
            )
            return outputs
        error = EngineFailure(uuid.uuid4().hex[:12])
        logger.error(
            "step of %d rows failed error_id=%s", len(step.rows), error.error_id, exc_info=cause
        )
        return self._scheduler.fail(step, self._clock(), error)

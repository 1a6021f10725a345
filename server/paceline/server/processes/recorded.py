"""A runner whose steps are on record, and which is given up when it only fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import StepOutOfMemory
from ..runner_port import Runner, WrappedRunner
from ..step import Sampled, Step
from .flight_record import FlightRecord

_MOST_FAILURES = 3


class RecordedRunner(WrappedRunner):
    """Implements the engine's `Runner` with another one.

    Args:
        fatal: called when some steps in a row have failed: after some errors a device never computes again, and then a
            new process is the only help. The last of these steps is on record then.
    """

    def __init__(self, inner: Runner, record: FlightRecord, fatal: Callable[[], None]) -> None:
        super().__init__(inner)
        self._record = record
        self._fatal = fatal
        self._failures = 0

    def launch(self, step: Step) -> object:
        self._record.launching(step, time.monotonic())
        try:
            return self._inner.launch(step)
        except Exception as exc:
            self._failed(exc)
            self._record.landed(time.monotonic(), latest=True)
            raise

    def collect(self, handle: object) -> Sampled:
        try:
            sampled = self._inner.collect(handle)
        except Exception as exc:
            self._failed(exc)
            raise
        else:
            self._failures = 0
            return sampled
        finally:
            self._record.landed(time.monotonic())

    def _failed(self, cause: Exception) -> None:
        if isinstance(cause, StepOutOfMemory):
            return
        self._failures += 1
        if self._failures == _MOST_FAILURES:
            self._fatal()

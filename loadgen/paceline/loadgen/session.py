"""What one Locust process knows of the run: its stage, its prompts, its connections, its records."""

from __future__ import annotations

import logging
import platform
import secrets
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gevent
import grpc
from gevent.event import Event

from paceline.loadgen.call import Call, Channels
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.recorder import Recorder
from paceline.loadgen.stage import Progress, Stage
from paceline.loadgen.workload import NONCES, Workload, make_workload, schedule_sha256

logger = logging.getLogger(__name__)

CONNECT_S = 3.0
CLOSE_S = 2.0  # for cut calls to end
LATE_S = 0.01  # a send so long after its time counts as late


class Failure(Exception):
    """A generation that ended with a status other than OK; its text is the status, so that Locust groups by it."""


class Session:
    """The state that the users of one process share; its greenlets are its only readers and writers."""

    def __init__(self, worker: int, clock: Any = time.perf_counter) -> None:
        self.worker = worker
        self.options = LoadOptions()
        self._clock = clock
        self._workload: Workload = make_workload(self.options.workload)
        self._nonce = 0
        self._channels: Channels | None = None
        self._recorder: Recorder | None = None
        self._stage = Stage()
        self._gate = Event()
        self._flying: set[Call] = set()
        self._sent = self._ended = 0
        self._dropped = self._late = 0
        self._seen_failures: set[str] = set()

    def begin(self, options: LoadOptions, host: str | None, stage: Stage) -> None:
        """Get ready for a run. Raises WorkloadError, FileExistsError."""
        self._nonce = options.nonce if options.nonce >= 0 else secrets.randbelow(NONCES)
        self._workload = make_workload(
            options.workload,
            seed=options.seed,
            tokens_scale=options.max_tokens_scale,
            nonce=self._nonce,
        )
        self.options = options
        target = options.address(host)
        if self._channels is None or self._channels.target != target:
            self._close_channels()
            self._channels = Channels(target, options.channels)
            if trouble := self._channels.connect(CONNECT_S):
                logger.warning("is a server running at %s? %s", target, trouble)
        if options.out and self._recorder is None:
            self._recorder = Recorder(Path(options.out), self.worker, clock=self._clock)
            self._recorder.write_header(self._header())
        self._seen_failures.clear()
        self._sent = self._ended = self._dropped = self._late = 0
        logger.info("%s: %s", self._workload.name, self._workload.notes)
        self.enter(stage)

    def _header(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "mode": self.options.label,
            "command": sys.argv,
            "seed": self.options.seed,
            "nonce": self._nonce,
            "workload": self._workload.name,
            "workload_notes": self._workload.notes,
            "schedule_sha256": schedule_sha256(self._workload),
            "wall_minus_perf_s": time.time() - time.perf_counter(),
            "locust": version("locust"),
            "grpcio": grpc.__version__,
            "python": platform.python_version(),
        }

    @property
    def stage(self) -> Stage:
        return self._stage

    def enter(self, stage: Stage) -> None:
        """Go to a stage: a new index counts its requests from 0, `cut` ends what is in flight."""
        if stage.index != self._stage.index:
            self._sent = self._ended = self._dropped = self._late = 0
        self._stage = stage
        if stage.open and stage.rate is None:  # an open loop's arrivals need no users
            self._gate.set()
        else:
            self._gate.clear()
        if stage.cut:
            self._cut_flying()

    def _cut_flying(self) -> None:
        for call in tuple(self._flying):
            call.cut()

    def progress(self) -> Progress:
        return Progress(
            self._stage.index,
            self._sent,
            self._ended,
            len(self._flying),
            self._stage.open,
            self._dropped,
            self._late,
        )

    def wait_for_turn(self, timeout_s: float) -> bool:
        """Wait until users may send, or the time is over."""
        return bool(self._gate.wait(timeout_s))

    def generate(self) -> Call:
        """Send this process's next request and read its answer. The call is recorded whatever happens."""
        stage = self._stage
        number = stage.slot + stage.slots * self._sent
        self._sent += 1
        phase = "warmup" if number < stage.warmup else "measure"
        prompt = self._workload.prompt(number, stage.index)
        return self._send(Call(prompt, stage.index, stage.level, phase, self._clock))

    def arrive(self, number: int, t_int: float) -> Call:
        """Send arrival `number` of an open loop, which was meant for `t_int`, and read its answer."""
        self._sent += 1
        call = self._send(self._arrival(number, t_int))
        self._late += call.t_send - t_int > LATE_S
        return call

    def drop(self, number: int, t_int: float) -> None:
        """Record an arrival that is not sent, as too many are outstanding."""
        call = self._arrival(number, t_int)
        call.drop()
        self._dropped += 1
        self._keep(call)

    def _arrival(self, number: int, t_int: float) -> Call:
        stage = self._stage
        phase = "warmup" if number < stage.warmup else "measure"
        prompt = self._workload.prompt(number, stage.index)
        call = Call(prompt, stage.index, stage.level, phase, self._clock)
        call.t_int, call.rate = t_int, stage.rate
        return call

    @property
    def outstanding(self) -> int:
        """Requests of this process in flight."""
        return len(self._flying)

    def now(self) -> float:
        """The clock of every time stamp, in seconds."""
        return float(self._clock())

    def _send(self, call: Call) -> Call:
        assert self._channels is not None, "begin() comes first"
        self._flying.add(call)
        try:
            call.run(self._channels.stub(), self.options.request_timeout_s)
        finally:
            self._flying.discard(call)
            self._keep(call)
        return call

    def _keep(self, call: Call) -> None:
        if call.index == self._stage.index and call.phase == "measure" and call.status == "OK":
            self._ended += 1
        if self._recorder is not None:
            self._recorder.add(call.record(mode=self.options.label, worker=self.worker))
        if call.failed and call.status not in self._seen_failures:
            self._seen_failures.add(call.status)
            target = self._channels.target if self._channels else ""
            logger.warning("first %s from %s: %s", call.status, target, call.details)

    @property
    def name(self) -> str:
        """The row of Locust's tables that a request counts in now."""
        if self._stage.rate is not None:
            return f"{self._workload.name}/{self._stage.rate:g} per s"
        if self.options.concurrency:
            return f"{self._workload.name}/{self._stage.level}"
        return self._workload.name

    def flush(self) -> None:
        if self._recorder is not None:
            self._recorder.flush()

    def close(self) -> None:
        """Cut what is in flight, write what is kept, let go of the connections."""
        self._gate.clear()
        self._cut_flying()
        with gevent.Timeout(CLOSE_S, False):
            while self._flying:
                gevent.sleep(0.01)
        if self._recorder is not None:
            self._recorder.close()
        self._close_channels()

    def _close_channels(self) -> None:
        if self._channels is not None:
            self._channels.close()
            self._channels = None

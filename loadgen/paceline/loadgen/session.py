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

from paceline.loadgen.access import without_secrets
from paceline.loadgen.call import Call
from paceline.loadgen.conversation import think_time
from paceline.loadgen.health import HealthSampler
from paceline.loadgen.live_figures import level_name
from paceline.loadgen.live_tally import Tally
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.probe_prompts import probe_prompt
from paceline.loadgen.prompt import Prompt
from paceline.loadgen.recorder import Recorder
from paceline.loadgen.slo import parse_slo
from paceline.loadgen.stage import Progress, Stage
from paceline.loadgen.timing import PROBE_KIND
from paceline.loadgen.wire import Wire
from paceline.loadgen.wiring import make_wire
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
        self.tally: Tally | None = None  # where somebody looks at the run while it goes on
        self._clock = clock
        self._workload: Workload = make_workload(self.options.workload)
        self._nonce = 0
        self._context_tokens = 0  # of the served model; 0: unknown
        self._wire: Wire | None = None
        self._recorder: Recorder | None = None
        self._health: HealthSampler | None = None
        self._stage = Stage()
        self._gate = Event()
        self._flying: set[Call] = set()
        self._opened = Event()
        self._sent = self._begun = self._ended = self._dropped = self._late = 0
        self._tokens = 0  # of calls that ended
        self._seen_failures: set[str] = set()

    def begin(self, options: LoadOptions, host: str | None, stage: Stage) -> None:
        """Get ready for a run. Raises WorkloadError, SloError, AccessError, FileExistsError."""
        self._nonce = options.nonce if options.nonce >= 0 else secrets.randbelow(NONCES)
        self.options = options
        target = options.address(host)
        if self._wire is None or self._wire.target != target:
            self._close_wire()
            self._wire = make_wire(options, host)
            if trouble := self._wire.connect(CONNECT_S):
                logger.warning("is a server running at %s? %s", target, trouble)
            self._context_tokens = 0 if trouble else self._wire.context_tokens(CONNECT_S)
        self._workload = options.make_workload(self._nonce, self._context_tokens)
        if options.out and self._recorder is None:
            self._recorder = Recorder(Path(options.out), self.worker, clock=self._clock)
            self._recorder.write_header(self._header())
            self._health = HealthSampler(Path(options.out), self.worker, clock=self._clock)
            self._health.start()
        self._seen_failures.clear()
        self._sent = self._begun = self._ended = self._dropped = self._late = 0
        self._tokens = 0
        if self.tally is not None:
            self.tally.begin(parse_slo(options.slo) if options.slo else None, self._clock())
        logger.info("%s: %s", self._workload.name, self._workload.notes)
        self.enter(stage)

    def _header(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "mode": self.options.label,
            "command": without_secrets(sys.argv),
            "protocol": self.options.protocol,
            "seed": self.options.seed,
            "nonce": self._nonce,
            "workload": self._workload.name,
            "workload_notes": self._workload.notes,
            "lengths": {"context_tokens": self._context_tokens, "factors": self._workload.factors},
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
            self._sent = self._begun = self._ended = self._dropped = self._late = 0
        self._stage = stage
        if stage.open and stage.rate is None:  # an open loop's arrivals need no users
            self._gate.set()
        else:
            self._gate.clear()
        if stage.open:
            self._opened.set()
        else:
            self._opened.clear()
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

    def wait_until_open(self, timeout_s: float) -> bool:
        """Wait until a level is open, whoever sends its load, or the time is over."""
        return bool(self._opened.wait(timeout_s))

    def generate(self, before: Call | None = None) -> Call:
        """Send this process's next request and read its answer. The call is recorded whatever happens.

        A conversation goes on from the reader's call `before`, where that came to a good end at this level.
        """
        stage = self._stage
        number = stage.slot + stage.slots * self._sent
        self._sent += 1
        phase = "warmup" if number < stage.warmup else "measure"
        call = Call(self._prompt(before), stage.index, stage.level, phase, self._clock)
        return self._send(call)

    def probe(self, number: int, t_int: float) -> Call:
        """Send a probe that was meant for `t_int`, beside the load: neither its counts nor its numbers change."""
        stage = self._stage
        phase = "warmup" if self._sent * stage.slots < stage.warmup else "measure"
        prompt = probe_prompt(number, stage.index, self._nonce)
        call = Call(prompt, stage.index, stage.level, phase, self._clock, t_int=t_int)
        call.rate = stage.rate
        return self._send(call)

    def _prompt(self, before: Call | None) -> Prompt:
        if before is not None and before.index == self._stage.index and before.status == "OK":
            following = before.prompt.next_turn(before.answer)
            if following is not None:
                return following
        number = self._stage.slot + self._stage.slots * self._begun
        self._begun += 1
        return self._workload.prompt(number, self._stage.index)

    def arrival(self, stage: Stage, number: int, t_int: float) -> Call:
        """Arrival `number` of an open loop's level, which is meant for `t_int`; it is not sent yet."""
        phase = "warmup" if number < stage.warmup else "measure"
        prompt = self._workload.prompt(number, stage.index)
        call = Call(prompt, stage.index, stage.level, phase, self._clock, t_int=t_int)
        call.rate = stage.rate
        return call

    def next_turn(self, before: Call) -> Call | None:
        """What follows an open loop's call in its conversation, meant for a pause after its end.

        None where it was the last turn, or did not come to a good end.
        """
        following = before.prompt.next_turn(before.answer) if before.status == "OK" else None
        if following is None:
            return None
        t_int = before.t_end + think_time(following.id, self.options.think_s, self.options.seed)
        call = Call(following, before.index, before.level, before.phase, self._clock, t_int=t_int)
        call.rate = before.rate
        return call

    def arrive(self, call: Call) -> None:
        """Send a call that has a time, and read its answer."""
        assert call.t_int is not None, "an open loop's calls have a time"
        self._sent += call.prompt.turn == 1
        self._send(call)
        self._late += call.t_send - call.t_int > LATE_S

    def drop(self, call: Call) -> None:
        """Record a call that is not sent: too many are outstanding, or its level ended while this process was late."""
        call.drop()
        self._dropped += 1
        self._keep(call)

    @property
    def outstanding(self) -> int:
        """Requests of this process in flight."""
        return len(self._flying)

    def now(self) -> float:
        """The clock of every time stamp, in seconds."""
        return float(self._clock())

    def _send(self, call: Call) -> Call:
        assert self._wire is not None, "begin() comes first"
        self._flying.add(call)
        try:
            call.run(self._wire, self.options.request_timeout_s)
        finally:
            self._flying.discard(call)
            self._keep(call)
        return call

    def _keep(self, call: Call) -> None:
        counts = call.phase == "measure" and call.ended and call.prompt.kind != PROBE_KIND
        if call.index == self._stage.index and counts:
            self._ended += 1
        self._tokens += call.tokens
        if self._recorder is not None or self.tally is not None:
            record = call.record(mode=self.options.label, worker=self.worker)
            if self._recorder is not None:
                self._recorder.add(record)
            if self.tally is not None:
                self.tally.take(record)
        if call.failed and call.status not in self._seen_failures:
            self._seen_failures.add(call.status)
            target = self._wire.target if self._wire else ""
            logger.warning("first %s from %s: %s", call.status, target, call.details)

    def tick(self) -> None:
        """End a second of the live figures: what arrived until now, of calls in flight too."""
        if self.tally is not None:
            stage = self._stage
            self.tally.tick(
                self._clock(),
                in_flight=len(self._flying),
                tokens=self._tokens + sum(call.tokens for call in self._flying),
                level=level_name(stage.level, stage.rate),
            )

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
        if self._health is not None:
            self._health.stop()
        self._close_wire()

    def _close_wire(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

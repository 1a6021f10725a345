"""Many jobs through the engine at once, on the caller's thread: what `paceline batch` runs and measures."""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from .collector import settle
from .completion import Completion, Delta
from .config import EngineConfig
from .engine import Engine
from .errors import FeatureUnavailable, InvalidRequest, QueueFull, Unavailable
from .guidance import Guides
from .job import Job
from .request import FinishReason, Load, Output
from .runner_port import Runner, WrappedRunner
from .stops import StopSet
from .tokenizer import Tokenizer

_SWITCH_S = 1e-4  # Python's own interval is 5 ms, several steps of a GPU
_LOOK_S = 1.0  # how often a silent engine is looked after


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one job. `reason` is None, and `error` says why, where it was not run to an end."""

    token_ids: tuple[int, ...] = ()
    text: str = ""
    reason: FinishReason | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """All answers, in the order of the jobs, and what the engine counted.

    `wall_s` is from the first submit to the last answer: loading and encoding are not in it.
    """

    answers: list[Answer]
    load: Load
    wall_s: float
    interrupted: bool


class KeptRunner(WrappedRunner):
    """A runner for several engines one after the other: warmed up once, and closed by nobody but its owner."""

    def __init__(self, inner: Runner) -> None:
        super().__init__(inner)
        self._warm = False

    def warm_up(self) -> None:
        if not self._warm:
            super().warm_up()
            self._warm = True

    def close(self) -> None:
        """Leaves the model where it is."""


@contextlib.contextmanager
def _quick_switches() -> Iterator[None]:
    """Lets the engine's thread have the interpreter soon after it asks: while it waits, a GPU may wait for it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def _interrupts(told: Callable[[], None]) -> Iterator[None]:
    """Calls `told` where a signal would raise KeyboardInterrupt, which could lose outputs that were just taken."""
    ours = []
    if threading.current_thread() is threading.main_thread():
        both = (signal.SIGINT, signal.SIGTERM)
        ours = [n for n in both if signal.getsignal(n) is signal.default_int_handler]
    for number in ours:
        signal.signal(number, lambda *_: told())
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.default_int_handler)


@dataclass(slots=True)
class _Open:
    """A job the engine works on."""

    position: int
    completion: Completion
    searches: (
        bool  # for stop strings: read at each step; else everything is decoded at the end, once
    )
    unread: list[Output] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


class OfflineRun:
    """One pass of jobs through an engine of its own, with an empty prefix cache. Use it once.

    Job ids must differ.
    """

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        tokenizer: Tokenizer,
        guides: Guides | None = None,
    ) -> None:
        self._outputs: queue.SimpleQueue[list[Output]] = queue.SimpleQueue()
        self._engine = Engine(runner, config, self._outputs.put, guides=guides)
        self._tokenizer = tokenizer
        self._open: dict[str, _Open] = {}
        self._answers: dict[int, Answer] = {}
        self._interrupted = False

    def run(self, jobs: Sequence[Job], longest_first: bool = False) -> Pass:
        """Runs all jobs. Ctrl-C ends it early: what runs is cut short, what waits is not run; nothing is lost.

        Started longest first, a run does not end with a few long rows that the short ones left behind: the rule
        of longest processing time, whose makespan is within 4/3 of the best (Graham, 1969).
        """
        order = list(enumerate(jobs))
        if longest_first:
            order.sort(key=lambda item: -item[1].request.stopping.max_tokens)
        waiting = deque(order)
        self._engine.start()
        settle()
        started = time.perf_counter()
        try:
            with _quick_switches(), _interrupts(self._interrupt):
                while (waiting or self._open) and not self._interrupted:
                    self._submit(waiting)
                    self._read()
        finally:
            wall_s = time.perf_counter() - started
            self._engine.stop()
        while not self._outputs.empty():
            self._take(self._outputs.get())
        not_run = Answer(error="not run: interrupted")
        answers = [self._answers.get(position, not_run) for position in range(len(jobs))]
        return Pass(answers, self._engine.load(), wall_s, self._interrupted)

    def _interrupt(self) -> None:
        self._interrupted = True
        self._outputs.put([])  # wakes `_read`

    def _submit(self, waiting: deque[tuple[int, Job]]) -> None:
        """Hands over as much as the queue takes."""
        while waiting:
            position, job = waiting[0]
            stops = StopSet(job.stop)
            completion = Completion(job, 0, self._tokenizer, stops)
            self._open[job.request.id] = _Open(position, completion, bool(stops))
            try:
                # It queues from now on: the engine lets in who came first, and jobs were read in the file's order.
                self._engine.submit(replace(job.request, arrival=time.monotonic()))
            except QueueFull as exc:
                del self._open[job.request.id]
                if self._open:
                    return
                self._answers[position] = Answer(error=f"cannot be queued: {exc}")
            except (InvalidRequest, FeatureUnavailable) as exc:
                del self._open[job.request.id]
                self._answers[position] = Answer(error=str(exc))
            waiting.popleft()

    def _read(self) -> None:
        """Waits for the next outputs, if any can come."""
        if not self._open:
            return
        try:
            self._take(self._outputs.get(timeout=_LOOK_S))
        except queue.Empty:
            if not self._engine.healthy:
                raise Unavailable("the engine has died") from None

    def _take(self, outputs: list[Output]) -> None:
        for output in outputs:
            entry = self._open[output.request_id]
            entry.unread.append(output)
            if output.finish is None and not entry.searches:
                continue
            delta = entry.completion.take(entry.unread)
            entry.unread.clear()
            if delta is not None:
                self._add(output.request_id, entry, delta)

    def _add(self, request_id: str, entry: _Open, delta: Delta) -> None:
        entry.token_ids += delta.token_ids
        entry.text.append(delta.text)
        if delta.finish is None:
            if entry.completion.matched:
                self._engine.cancel(request_id)
            return
        del self._open[request_id]
        error = delta.finish.error
        self._answers[entry.position] = Answer(
            tuple(entry.token_ids),
            "".join(entry.text),
            None if error else delta.finish.reason,
            None if error is None else str(error),
        )

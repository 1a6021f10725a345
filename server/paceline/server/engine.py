"""The one owner of request state: inbox -> plan -> launch -> collect -> apply -> deliver."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from .compiler import Compiler
from .config import EngineConfig
from .door import Door
from .errors import EngineFailure, InvalidRequest, Unavailable, Violation
from .inbox import Cancel, Compiled, Message, Stop, Submit
from .pages import PagePool
from .pipeline import Pipeline
from .request import FinishReason, Load, Output, Request
from .runner_port import Runner
from .scheduler import Scheduler

if TYPE_CHECKING:
    from .guidance import Guides

logger = logging.getLogger(__name__)


class Engine:
    """Runs requests in batches on a thread of its own.

    Every completion that `submit` accepted gets exactly one `Output` with `finish`, whatever happens.

    Args:
        runner: computes the steps.
        config: mode and bounds.
        deliver: takes a step's outputs, in order; called on the engine's thread, so it must be quick.
        clock: monotonic seconds; `Request` times are of the same clock.
        fatal: called when the loop itself fails, before anybody is told; it may end the process.
        guides: of the runner's model; None: requests with a constraint are refused.
    """

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        deliver: Callable[[list[Output]], None],
        clock: Callable[[], float] = time.monotonic,
        fatal: Callable[[], None] = lambda: None,
        guides: Guides | None = None,
    ) -> None:
        self._fatal = fatal
        self._runner = runner
        self._config = config
        self._deliver = deliver
        self._clock = clock
        self._door = Door(config, clock)
        pages = PagePool(runner.num_pages, config.page_size, prefix_cache=config.prefix_cache)
        self._scheduler = Scheduler(
            config, pages, runner.info.max_context_tokens, runner.buckets, self._door.leave
        )
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._compiler = Compiler(guides, self._scheduler.compiling, self._inbox.put)
        self._thread = threading.Thread(target=self._run, name="paceline-engine", daemon=True)
        self._warm: Future[None] = Future()
        self._pipeline = Pipeline(
            runner,
            self._scheduler,
            self._door,
            clock,
            ahead=runner.ahead and config.launch_ahead,
        )
        self._load = self._scheduler.load(clock())
        self._idle = threading.Event()
        self._idle.set()
        # Held to put a request in the inbox, and to look whether there is none: no request can slip
        # between the last look and the end.
        self._entrance = threading.Lock()
        self._closed = False
        self._draining = False
        self._stopping: FinishReason | None = None

    @property
    def max_context(self) -> int:
        """Tokens a request may reach, prompt and output together."""
        return self._scheduler.max_context

    @property
    def guided(self) -> bool:
        """Whether it takes requests with a constraint."""
        return self._compiler.guided

    @property
    def healthy(self) -> bool:
        """Whether the loop is alive."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the loop; returns when the runner is warm. Raises what warming it up raised."""
        self._thread.start()
        self._warm.result()

    def submit(self, request: Request, *, again: bool = False) -> None:
        """Queues a request; its outputs go to `deliver`.

        Args:
            again: an engine before this one had accepted it, so neither a full queue nor a drain refuses it.

        Raises:
            InvalidRequest: it can never fit. Where its constraint is wrong, its completions end with that.
            FeatureUnavailable: it has a constraint, and there are no guides.
            QueueFull: too much is waiting.
            Unavailable: the engine is draining or not running.
        """
        guide = None
        if request.constraint is not None:
            guide = self._compiler.known(request.constraint)
        if len(request.prompt_ids) >= self.max_context:
            raise InvalidRequest(
                Violation(
                    "generation.input",
                    f"the prompt has {len(request.prompt_ids)} tokens; "
                    f"the context holds {self.max_context}, output included",
                )
            )
        with self._entrance:
            if self._draining and not again:
                raise Unavailable("the server is shutting down")
            if self._closed or not self.healthy:
                raise Unavailable("the engine is not running")
            self._door.enter(request, again=again)
            self._idle.clear()
            self._inbox.put(Submit(request, guide))

    def cancel(
        self,
        request_id: str,
        reason: FinishReason = FinishReason.CANCELLED,
        index: int | None = None,
    ) -> None:
        """Ends a request's completions (or one) before the next step. Unknown ids are no error."""
        self._inbox.put(Cancel(request_id, reason, index))

    def load(self) -> Load:
        """What the engine is doing, as of its latest step. Any thread; costs the engine nothing."""
        return replace(
            self._load,
            time_s=self._clock(),
            requests_rejected=self._door.rejected,
            queue_wait_s=self._door.wait_s(),
            draining=self._draining,
            step_bins=tuple(self._pipeline.bins),
            bucket_steps=self._runner.buckets.uses(dict(self._scheduler.shapes)),
        )

    def drain(self) -> None:
        """Refuses new requests from now on."""
        self._draining = True

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until nothing runs or waits; whether that came true in time."""
        return self._idle.wait(timeout_s)

    def stop(self, reason: FinishReason = FinishReason.ABORTED) -> None:
        """Ends all that runs or waits with `reason`, then the loop. Returns when it has ended."""
        self._inbox.put(Stop(reason))
        self._draining = True  # whoever sees it knows that the message is on its way
        if self._thread.is_alive():
            self._thread.join()
        self._compiler.close()
        self._runner.close()

    def _run(self) -> None:
        try:
            self._runner.warm_up()
        except Exception as exc:
            self._warm.set_exception(exc)
            return
        self._warm.set_result(None)
        self._loop()

    def _loop(self) -> None:
        error = None
        try:
            while self._stopping is None:
                outputs = self._read_inbox()
                outputs += self._scheduler.expire(self._clock())
                outputs += self._pipeline.turn()
                self._publish(outputs)
        except Exception:
            error = EngineFailure(uuid.uuid4().hex[:12])
            logger.exception("the engine failed error_id=%s", error.error_id)
            self._fatal()
            self._stopping = FinishReason.ERROR
        with self._entrance:
            self._closed = True
        reason, last = self._stopping, []
        while not self._inbox.empty():
            last += self._handle(self._inbox.get())
        self._publish(last + self._scheduler.cancel_all(reason, self._clock(), error))

    def _publish(self, outputs: list[Output]) -> None:
        self._load = replace(self._scheduler.load(self._clock()), step_s=self._pipeline.seconds)
        if outputs:
            self._deliver(outputs)
        with self._entrance:
            if self._scheduler.idle and self._inbox.empty():
                self._idle.set()

    def _read_inbox(self) -> list[Output]:
        """Takes in every message that is there; waits for one when there is nothing to compute."""
        outputs: list[Output] = []
        timeout = self._patience()
        while True:
            try:
                message = self._inbox.get(block=timeout != 0.0, timeout=timeout)
            except queue.Empty:
                return outputs
            outputs += self._handle(message)
            timeout = 0.0

    def _patience(self) -> float | None:
        """Seconds the inbox may be waited for: none after a step, no end while nothing is due."""
        if self._pipeline.worked:
            return 0.0
        due = self._scheduler.asks_again_at()
        return None if due is None else max(0.0, due - self._clock())

    def _handle(self, message: Message) -> list[Output]:
        match message:
            case Submit(request, guide):
                self._scheduler.add(request, guide)
                if guide is None and request.constraint is not None:
                    self._compiler.begin(request)
                return []
            case Compiled(request, found):
                return self._scheduler.compiled(request, found, self._clock())
            case Cancel(request_id, reason, index):
                return self._scheduler.cancel(request_id, reason, self._clock(), index)
            case Stop(reason):
                self._stopping = reason
                return []

"""A scheduler with a paper model and a clock of its own, stepped by hand."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from paceline.server.config import EngineConfig, Mode
from paceline.server.errors import DeadlineExceeded
from paceline.server.pages import PagePool
from paceline.server.rectangles import Buckets
from paceline.server.request import FinishReason, Output, Request, SamplingParams, StoppingParams
from paceline.server.scheduler import Scheduler
from paceline.server.step import Sampled, Step
from paper_model import PaperModel

PAGE_SIZE = 2
BUCKETS = Buckets(rows=(1, 2, 4), width=4, split_gain=3)


def request(
    id: str, prompt: list[int], max_tokens: int = 4, *, at: float = 0.0, **more: Any
) -> Request:
    ends = more.pop("ends", frozenset())
    stopping = StoppingParams(max_tokens=max_tokens, eos_token_ids=ends)
    return Request(id, tuple(prompt), SamplingParams(), stopping, at, **more)


class Bench:
    """Steps as the engine does. With `ahead` each step is launched before the one before it is applied."""

    def __init__(
        self, mode: Mode, *, num_pages: int = 20, ahead: bool = False, **config: Any
    ) -> None:
        settings: dict[str, Any] = {
            "max_batch_size": 4,
            "max_wait_ms": 10,
            "max_step_tokens": 16,
        }
        self.config = EngineConfig(mode=mode, page_size=PAGE_SIZE, **(settings | config))
        self.pages = PagePool(num_pages, PAGE_SIZE, prefix_cache=self.config.prefix_cache)
        self.left_queue: list[tuple[str, int]] = []
        self.scheduler = Scheduler(
            self.config,
            self.pages,
            max_context=64,
            buckets=BUCKETS,
            on_leave_queue=lambda s: self.left_queue.append((s.request.id, s.index)),
        )
        self.model = PaperModel(PAGE_SIZE)
        self.ahead = ahead
        self.in_flight: tuple[Step, Sampled] | None = None
        self.now = 0.0
        self.outputs: list[Output] = []

    def step(self) -> Step | None:
        step = self.plan()
        launched = None if step is None else (step, self.model.run(step))
        self.land()
        self.in_flight = launched
        if not self.ahead:
            self.land()
        return step

    def plan(self) -> Step | None:
        self.now += 1.0
        self.outputs += self.scheduler.expire(self.now)
        return self.scheduler.plan(self.now)

    def land(self) -> None:
        """Applies the step in flight, if there is one."""
        if self.in_flight is not None:
            step, sampled = self.in_flight
            self.in_flight = None
            self.outputs += self.scheduler.apply(step, sampled, self.now)

    def step_goes_wrong(self, *, in_launch: bool, out_of_memory: bool) -> Step | None:
        """A step fails, and the device's memory is garbage: the next one in its launch, or the one in
        flight when it is collected, with another launched behind it."""
        step = self.plan()
        if in_launch or self.in_flight is None:
            self.land()
        else:
            behind = None if step is None else (step, self.model.run(step))
            (step, _), self.in_flight = self.in_flight, behind
        if step is None:
            return None
        self.model.wipe()
        if out_of_memory:
            self.outputs += self.scheduler.out_of_memory(step, self.now)
        else:
            self.outputs += self.scheduler.fail(step, self.now, DeadlineExceeded("scripted"))
        self.land()
        return step

    def run(self, max_steps: int = 800) -> None:
        for _ in range(max_steps):
            if self.scheduler.idle and self.in_flight is None:
                return
            self.step()
        raise AssertionError("the scheduler does not get on")

    @property
    def tokens(self) -> dict[tuple[str, int], tuple[int, ...]]:
        found: defaultdict[tuple[str, int], tuple[int, ...]] = defaultdict(tuple)
        for output in self.outputs:
            found[output.request_id, output.index] += output.token_ids
        return found

    @property
    def reasons(self) -> dict[tuple[str, int], FinishReason]:
        return {(o.request_id, o.index): o.finish.reason for o in self.outputs if o.finish}

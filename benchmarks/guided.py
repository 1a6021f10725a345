"""What masks cost: the time of a decode step with 1, 8 and 32 constrained rows, and how much of it goes into masks.

    python benchmarks/guided.py [paceline batch's model flags]

Every row goes on greedily from a random prompt; a constrained one writes a JSON array of records. A line a case: rows,
how many of them are constrained, milliseconds a step (median), and how many of them masks and following tokens take.
The step of constrained rows also holds what applying the masks and choosing from a copy of the logits costs.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from paceline.server.batch import BATCH, BatchOptions
from paceline.server.guidance import Guide, Guides
from paceline.server.pages import PagePool
from paceline.server.request import Constraint, Request, SamplingParams, StoppingParams
from paceline.server.runner.make import load_runner
from paceline.server.scheduler import Scheduler
from paceline.server.settings import read_command

PROMPT = 32
STEPS = 64
ROWS = (1, 8, 32)
RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["fast", "slow", "new"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
CONSTRAINT = Constraint(
    "json_schema", (json.dumps({"type": "array", "items": RECORD, "minItems": 40}),)
)


class Stopwatch:
    """Seconds spent in what it wraps, since it was last read."""

    def __init__(self) -> None:
        self._spent = 0.0

    def wrap(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self._spent += time.perf_counter() - started

        return timed

    def read(self) -> float:
        spent, self._spent = self._spent, 0.0
        return spent


def main(argv: list[str]) -> None:
    options = read_command(BATCH, ["-", "-", "--max-batch-size", str(max(ROWS)), *argv])
    assert isinstance(options, BatchOptions)
    loaded, runner = load_runner(options, options)
    runner.warm_up()
    found = Guides.of(loaded.tokenizer, runner.info.vocab_size, runner.info.eos_token_ids)
    assert found is not None
    found.prepare()
    watch = Stopwatch()
    Guide.mask = watch.wrap(Guide.mask)  # type: ignore[method-assign]
    Guide.accept = watch.wrap(Guide.accept)  # type: ignore[method-assign]
    for rows in ROWS:
        for constrained in (0, rows):
            _print(rows, constrained, _measure(options, runner, found, watch, rows, constrained))


def _measure(
    options: BatchOptions, runner: Any, guides: Guides, watch: Stopwatch, rows: int, guided: int
) -> list[tuple[float, float]]:
    """Seconds of each decode step, and of masks in it."""
    rng = random.Random(0)
    pages = PagePool(runner.num_pages, options.page_size, prefix_cache=False)
    scheduler = Scheduler(options, pages, runner.info.max_context_tokens, runner.buckets)
    for i in range(rows):
        prompt = tuple(rng.randrange(3, 40_000) for _ in range(PROMPT))
        request = Request(str(i), prompt, SamplingParams(0.0), StoppingParams(2 * STEPS), 0.0)
        scheduler.add(request, guides.open(CONSTRAINT) if i < guided else None)
    times = []
    while len(times) < STEPS:
        watch.read()
        started = time.perf_counter()
        step = scheduler.plan(0.0)
        assert step is not None
        scheduler.apply(step, runner.collect(runner.launch(step)), 0.0)
        if len(step.rows) == rows and all(rectangle.width == 1 for rectangle in step.rectangles):
            times.append((time.perf_counter() - started, watch.read()))
    return times


def _print(rows: int, constrained: int, times: list[tuple[float, float]]) -> None:
    step_s = statistics.median(whole for whole, _ in times)
    mask_s = statistics.fmean(masks for _, masks in times)
    most_s = max(masks for _, masks in times)
    sys.stdout.write(
        f"rows {rows:3d}  constrained {constrained:3d}  step {step_s * 1e3:7.2f} ms  "
        f"masks {mask_s * 1e3:6.3f} ms ({mask_s / step_s:.1%}), at most {most_s * 1e3:.3f} ms\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

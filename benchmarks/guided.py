"""What masks cost: the time of a decode step with 1, 8 and 32 constrained rows, and how much of it goes into masks.

    python benchmarks/guided.py [--out FILE] [-- paceline batch's model flags]

Every row goes on greedily from a random prompt; a constrained one writes a JSON array of records. A line a case: rows,
how many of them are constrained, milliseconds a step (median), and how many of them masks and following tokens take.
The step of constrained rows also holds what applying the masks and choosing from a copy of the logits costs. With
--out writes JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from environment import machine
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("flags", nargs="*", help="of `paceline batch`: the model's")
    given = parser.parse_args()
    options = read_command(BATCH, ["-", "-", "--max-batch-size", str(max(ROWS)), *given.flags])
    assert isinstance(options, BatchOptions)
    loaded, runner = load_runner(options, options)
    runner.warm_up()
    found = Guides.of(loaded.tokenizer, runner.info.vocab_size, runner.info.eos_token_ids)
    assert found is not None
    found.prepare()
    watch = Stopwatch()
    Guide.mask = watch.wrap(Guide.mask)  # type: ignore[method-assign]
    Guide.accept = watch.wrap(Guide.accept)  # type: ignore[method-assign]
    cases = []
    for rows in ROWS:
        for constrained in (0, rows):
            times = _measure(options, runner, found, watch, rows, constrained)
            cases.append(_case(rows, constrained, times))
            _print(cases[-1])
    if given.out is not None:
        told = {"machine": machine(), "flags": given.flags, "cases": cases}
        given.out.write_text(json.dumps(told, indent=1) + "\n")


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


def _case(rows: int, constrained: int, times: list[tuple[float, float]]) -> dict[str, float]:
    return {
        "rows": rows,
        "constrained": constrained,
        "step_ms": 1e3 * statistics.median(whole for whole, _ in times),
        "masks_ms": 1e3 * statistics.fmean(masks for _, masks in times),
        "masks_max_ms": 1e3 * max(masks for _, masks in times),
    }


def _print(case: dict[str, float]) -> None:
    share = case["masks_ms"] / case["step_ms"]
    sys.stdout.write(
        f"rows {case['rows']:3d}  constrained {case['constrained']:3d}  step {case['step_ms']:7.2f} ms  "
        f"masks {case['masks_ms']:6.3f} ms ({share:.1%}), at most {case['masks_max_ms']:.3f} ms\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Times the host's part of a step: planning it, laying it out for a GPU, applying its tokens, building the outputs.

    python benchmarks/scheduler.py [--rows 256] [--waiting 256] [--steps 2000] [--ahead] [--json]

Two loads in continuous mode, each with a full waiting line: `steady`, where all rows decode and nobody
comes or goes, and `stream`, where rows end and others join all the time. Reports the median and the 99th
percentile, in milliseconds, of plan, stage, apply and their sum. `--ahead` plans each step before the one
before it is applied, as on a GPU.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable

import numpy as np

from paceline.server.config import EngineConfig
from paceline.server.pages import PagePool
from paceline.server.rectangles import Buckets
from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.runner import staging
from paceline.server.scheduler import Scheduler
from paceline.server.step import Sampled, Step

PAGE_SIZE = 16
BLOCK_Q = 16  # tokens of a prompt that attention takes together
MAX_CONTEXT = 4096
# As on a GPU: rows are not padded, the line of tokens is.
BUCKETS = Buckets(rows=(), width=1, lines=tuple(2**i for i in range(13)))
EOS = frozenset({2})
Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--waiting", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--ahead", action="store_true")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args()
    report = {
        "rows": args.rows,
        "waiting": args.waiting,
        "steps": args.steps,
        "ahead": args.ahead,
        "steady": _figures(_steady(args.rows, args.waiting, args.steps, args.ahead)),
        "stream": _figures(_stream(args.rows, args.waiting, args.steps, args.ahead)),
    }
    if args.json:
        print(json.dumps(report))  # noqa: T201
        return
    for load in ("steady", "stream"):
        for part, times in report[load].items():
            print(f"{load}  {part:5}  {times['p50']:.3f} ms  p99 {times['p99']:.3f} ms")  # noqa: T201


def _steady(rows: int, waiting: int, steps: int, ahead: bool) -> Times:
    """Every row decodes from the first timed step to the last."""
    rng = random.Random(0)
    scheduler = _scheduler(rows)
    for i in range(rows + waiting):
        scheduler.add(_request(rng, i, 16, MAX_CONTEXT))
    while scheduler._running.prefilling or not scheduler._running:
        step = scheduler.plan(0.0)
        assert step is not None
        scheduler.apply(step, _sampled(step), 0.0)
    return _time(scheduler, min(steps, MAX_CONTEXT - 100), ahead, lambda: None)


def _stream(rows: int, waiting: int, steps: int, ahead: bool) -> Times:
    """Prompts of 8 to 512 tokens, answers of 16 to 256; the waiting line is kept full."""
    rng = random.Random(0)
    scheduler = _scheduler(rows)
    sent = 0

    def refill() -> None:
        nonlocal sent
        while len(scheduler._waiting) < waiting or (len(scheduler._running) < rows and sent < rows):
            scheduler.add(_request(rng, sent, rng.randint(8, 512), rng.randint(16, 256)))
            sent += 1

    return _time(scheduler, steps, ahead, refill)


def _time(scheduler: Scheduler, steps: int, ahead: bool, before: Callable[[], None]) -> Times:
    times: Times = {"plan": [], "stage": [], "apply": [], "sum": []}
    stage = _Stage(scheduler)
    in_flight: Step | None = None
    for _ in range(steps):
        before()
        started = time.perf_counter()
        scheduler.expire(started)
        step = scheduler.plan(started)
        planned = time.perf_counter() - started
        started = time.perf_counter()
        if step is not None:
            stage(step)
        staged = time.perf_counter() - started
        done = in_flight if ahead else step
        in_flight = step
        if done is None:
            continue
        sampled = _sampled(done)
        started = time.perf_counter()
        scheduler.apply(done, sampled, started)
        applied = time.perf_counter() - started
        times["plan"].append(planned)
        times["stage"].append(staged)
        times["apply"].append(applied)
        times["sum"].append(planned + staged + applied)
    return times


class _Stage:
    """Lays steps out in a host's line, as the GPU's runner does."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._slots = scheduler.bounds.rows
        self._residents = staging.Residents(self._slots, PAGE_SIZE)
        self._fields: dict[int, staging.Fields[np.ndarray]] = {}

    def __call__(self, step: Step) -> None:
        contents = staging.read(step, self._residents)
        fields = self._fields.get(step.line)
        if fields is None:
            slots, tokens = self._slots, step.line
            shape = staging.Shape(tokens, slots, slots + tokens, slots + tokens, BLOCK_Q, 1)
            fields = staging.split(np.zeros(shape.length, dtype=np.int32), shape)
            self._fields[tokens] = fields
        staging.fill(fields, contents, BLOCK_Q)


def _figures(times: Times) -> dict[str, dict[str, float]]:
    return {
        part: {f"p{q}": round(float(np.percentile(values, q)) * 1e3, 3) for q in (50, 99)}
        for part, values in times.items()
    }


def _scheduler(rows: int) -> Scheduler:
    config = EngineConfig(max_batch_size=rows, max_step_tokens=2048, page_size=PAGE_SIZE)
    pages = PagePool(1 + rows * MAX_CONTEXT // PAGE_SIZE, PAGE_SIZE)
    return Scheduler(config, pages, MAX_CONTEXT, BUCKETS)


def _request(rng: random.Random, number: int, prompt_tokens: int, max_tokens: int) -> Request:
    prompt = tuple(rng.randrange(30_000) for _ in range(prompt_tokens))
    stopping = StoppingParams(max_tokens, eos_token_ids=EOS)
    return Request(str(number), prompt, SamplingParams(), stopping, float(number))


def _sampled(step: Step) -> Sampled:
    return Sampled([5] * len(step.sampling_rows))


if __name__ == "__main__":
    main()

"""Times the scheduler alone: planning and applying a step of 256 rows, against a 1 ms budget.

    python benchmarks/scheduler.py [rows]

Prints one JSON line: median and 99th percentile in milliseconds of 2,000 steps, waiting line included.
"""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np

from paceline.server.config import EngineConfig
from paceline.server.pages import PagePool
from paceline.server.rectangles import Buckets
from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.scheduler import Scheduler
from paceline.server.step import Sample

STEPS = 2000
PAGE_SIZE = 16
MAX_CONTEXT = 2048


def main(rows: int) -> None:
    rng = random.Random(0)
    config = EngineConfig(max_batch_size=rows, max_step_tokens=2048, page_size=PAGE_SIZE)
    pages = PagePool(rows * MAX_CONTEXT // PAGE_SIZE, PAGE_SIZE)
    scheduler = Scheduler(config, pages, MAX_CONTEXT, Buckets((rows,), split_gain=48))
    sent = 0
    plans, applies = [], []
    for _ in range(STEPS):
        while sent < 2 * rows or len(scheduler._waiting) < rows:
            prompt = tuple(rng.randrange(30_000) for _ in range(rng.randint(8, 512)))
            stopping = StoppingParams(rng.randint(16, 256))
            scheduler.add(Request(str(sent), prompt, SamplingParams(), stopping, float(sent)))
            sent += 1
        started = time.perf_counter()
        scheduler.expire(started)
        step = scheduler.plan(started)
        planned = time.perf_counter()
        assert step is not None
        samples = [Sample(5) for _ in step.sampling_rows]
        sampled = time.perf_counter()
        scheduler.apply(step, samples, sampled)
        plans.append(planned - started)
        applies.append(time.perf_counter() - sampled)
    result: dict[str, float] = {"rows": rows, "steps": STEPS}
    for name, times in (("plan", plans), ("apply", applies)):
        result[f"{name}_ms_p50"] = round(float(np.percentile(times, 50)) * 1e3, 3)
        result[f"{name}_ms_p99"] = round(float(np.percentile(times, 99)) * 1e3, 3)
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 256)

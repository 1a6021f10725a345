"""Where a decode step of the embedded model spends its time, operator by operator.

    python benchmarks/step.py [rows]

Prints the share of each operator in 20 decode steps of so many rows with contexts of 100 to 120 tokens.
"""

from __future__ import annotations

import random
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from paceline.server.config import EngineConfig, ModelConfig
from paceline.server.pages import PagePool
from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.runner import attention, loading
from paceline.server.runner.torch_runner import TorchRunner
from paceline.server.scheduler import Scheduler

CONTEXT = 100
STEPS = 20


def main(rows: int) -> None:
    rng = random.Random(0)
    model = loading.load(ModelConfig(), attention.register())
    config = EngineConfig(max_batch_size=rows, max_step_tokens=4096, prefix_cache=False)
    runner = TorchRunner(model, config, ModelConfig())
    runner.warm_up()
    pages = PagePool(runner.num_pages, config.page_size)
    scheduler = Scheduler(config, pages, 8192, runner.buckets)
    greedy = SamplingParams(temperature=0.0)
    for i in range(rows):
        prompt = tuple(rng.randrange(3, 40_000) for _ in range(CONTEXT))
        scheduler.add(Request(str(i), prompt, greedy, StoppingParams(10 * STEPS), 0.0))

    def step() -> None:
        planned = scheduler.plan(0.0)
        assert planned is not None
        scheduler.apply(planned, runner.collect(runner.launch(planned)), 0.0)

    while scheduler._waiting or scheduler._running.prefilling:
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            step()
    table = profiled.key_averages()
    total = sum(entry.self_cpu_time_total for entry in table)
    for entry in sorted(table, key=lambda entry: -entry.self_cpu_time_total)[:12]:
        share = entry.self_cpu_time_total / total
        print(f"{share:6.1%}  {entry.count // STEPS:5d} calls a step  {entry.key}")  # noqa: T201
    print(f"{torch.get_num_threads()} threads, {rows} rows")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 32)

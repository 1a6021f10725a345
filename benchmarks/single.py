"""One stream of 64 prompt and 64 output tokens through scheduler and runner, with nothing else running.

    python benchmarks/single.py WORKLOAD.jsonl [settings of the model, as `paceline batch` takes them]

The prompt is the first 64 tokens of the file. Prints medians of five runs as JSON, after one that is not counted.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from paceline.server.config import EngineConfig, ModelConfig
from paceline.server.pages import PagePool
from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.runner.make import load_runner
from paceline.server.scheduler import Scheduler
from paceline.server.settings import Command, read_command

TOKENS = 64
RUNS = 5


class Single(EngineConfig, ModelConfig):
    """What decides how one stream is computed."""


SETTINGS = Command("single", "One stream.", Single, (("model", ModelConfig),))


def main(workload: Path, settings: list[str]) -> None:
    requests = [json.loads(line) for line in workload.read_text().splitlines()]
    prompt = tuple(token for request in requests for token in request["prompt_ids"])[:TOKENS]
    given = read_command(SETTINGS, settings)
    config = given.model_copy(update={"max_batch_size": 1, "prefix_cache": False})
    runner = load_runner(config, config).runner
    runner.warm_up()
    firsts, steps = [], []
    for number in range(1 + RUNS):
        pages = PagePool(runner.num_pages, config.page_size)
        scheduler = Scheduler(config, pages, 8192, runner.buckets)
        greedy, length = SamplingParams(temperature=0.0), StoppingParams(TOKENS)
        started = time.perf_counter()
        scheduler.add(Request(str(number), prompt, greedy, length, 0.0))
        at = []
        while (step := scheduler.plan(0.0)) is not None:
            scheduler.apply(step, runner.collect(runner.launch(step)), 0.0)
            at.append(time.perf_counter())
        if number:
            firsts.append(at[0] - started)
            steps.append((at[-1] - at[0]) / (len(at) - 1))
    found = {
        "ttft_ms": statistics.median(firsts) * 1e3,
        "tpot_ms": statistics.median(steps) * 1e3,
        "dtype": runner.info.dtype,
    }
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

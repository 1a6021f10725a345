"""The questions of the tuning guide, each measured on the embedded model with the settings that answer it.

    python benchmarks/tuning.py QUESTION [--out FILE.json]

Questions: size, lengths, wait, budget, memory, prefix, overload. Each takes about a minute on two cores. With
--out the answer is put beside those that the file has already. Prompts are random token ids, answers go on to their
full length, tokens are greedy. `busy_elsewhere` is the share of the machine that other programs took meanwhile: near 0,
or measure again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from environment import machine
from served import served
from tuning_load import Ask, alone, burst, stalls, steady, whole

Rows = list[dict[str, Any]]
_DRAW = random.Random(7)
_IDS = range(100, 40_000)  # no special tokens
_MOCK_IDS = range(34, 94)  # its letters


def ask(prompt: int, output: int, prefix: tuple[int, ...] = (), ids: range = _IDS) -> Ask:
    """A request of so many random prompt tokens, after a prefix, for exactly `output` tokens."""
    return Ask((*prefix, *(_DRAW.choice(ids) for _ in range(prompt))), output)


def size() -> dict[str, Rows]:
    """32 requests in flight at all times; how many of them may share a step?"""
    rows = []
    for most in (1, 4, 8, 16, 32):
        with served(["--max-batch-size", str(most)]) as server:
            seen = asyncio.run(
                steady(server.target, lambda: ask(32, _DRAW.randrange(8, 33)), 32, 5.0)
            )
        rows.append({"max_batch_size": most, **seen})
    return {"size": rows}


def lengths() -> dict[str, Rows]:
    """32 requests, 16 rows: all answers of 24 tokens, or of 4 to 96 with the same sum."""
    mixed = [4, 6, 8, 8, 12, 12, 16, 16, 16, 20, 20, 24, 24, 40, 62, 96] * 2
    assert sum(mixed) == 24 * 32
    _DRAW.shuffle(mixed)
    rows = []
    for mode in ("static", "dynamic", "continuous"):
        with served(["--mode", mode, "--max-batch-size", "16"]) as server:
            for name, outputs in (("equal", [24] * 32), ("mixed", mixed)):
                asks = [ask(32, output) for output in outputs]
                seen = asyncio.run(whole(server.target, asks))
                rows.append({"mode": mode, "answers": name, **seen})
    return {"lengths": rows}


def wait() -> dict[str, Rows]:
    """What a lone request waits for company."""
    rows = []
    for wait_ms in (0, 50, 500):
        with served(["--mode", "static", "--max-wait-ms", str(wait_ms)]) as server:
            seen = asyncio.run(alone(server.target, [ask(32, 4) for _ in range(8)]))
        rows.append({"max_wait_ms": wait_ms, **seen})
    return {"wait": rows}


def budget() -> dict[str, Rows]:
    """What long prompts do to four streams that run, by how much of a prompt one step may compute."""
    rows = []
    for most in (64, 256, 1024):
        with served(["--max-step-tokens", str(most)]) as server:
            streams, prompts = [ask(16, 120) for _ in range(4)], [ask(512, 1) for _ in range(2)]
            seen = asyncio.run(stalls(server.target, streams, prompts))
        rows.append({"max_step_tokens": most, **seen})
    return {"budget": rows}


def memory() -> dict[str, Rows]:
    """16 requests of 64 + 24 tokens with little and enough memory for keys and values."""
    rows = []
    for mib in (12, 48):
        with served(["--kv-cache-mib", str(mib)]) as server:
            seen = asyncio.run(whole(server.target, [ask(64, 24) for _ in range(16)]))
        rows.append({"kv_cache_mib": mib, **seen})
    return {"memory": rows}


def prefix() -> dict[str, Rows]:
    """Prompts of 512 common and 32 own tokens, one after the other, with the prefix cache and without."""
    rows = []
    for flag in ("--no-prefix-cache", "--prefix-cache"):
        common = ask(512, 1).prompt
        with served([flag]) as server:
            seen = asyncio.run(alone(server.target, [ask(32, 4, common) for _ in range(5)]))
        rows.append({"prefix_cache": flag == "--prefix-cache", **seen})
    return {"prefix": rows}


def overload() -> dict[str, Rows]:
    """128 requests at once for 16 rows of the mock at 40 tokens a second each, with a bound on the wait and without."""
    mock = ["--mock", "--mock-tokens-per-s", "40", "--max-batch-size", "16"]
    rows = []
    for bound, flags in ((None, []), (2, ["--max-queue-wait-s", "2"])):
        with served([*mock, *flags]) as server:
            asks = [ask(32, 32, ids=_MOCK_IDS) for _ in range(128)]
            asyncio.run(whole(server.target, asks[:48]))  # of which some wait: it learns its pace
            seen = asyncio.run(burst(server.target, asks))
        rows.append({"max_queue_wait_s": bound, **seen})
    return {"burst": rows}


QUESTIONS: dict[str, Callable[[], dict[str, Rows]]] = {
    each.__name__: each for each in (size, lengths, wait, budget, memory, prefix, overload)
}


def _cpu_s() -> tuple[float, float, float]:
    """Processor seconds of everyone, of this program and the servers it ended, and of nobody."""
    all_of, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = all_of.idle + all_of.iowait
    return sum(all_of[:8]) - idle, sum(own[:4]), idle  # later fields are parts of earlier ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    before = _cpu_s()
    found = QUESTIONS[arguments.question]()
    everyone, ours, idle = (b - a for a, b in zip(before, _cpu_s(), strict=True))
    elsewhere = (everyone - ours) / (everyone + idle)
    if arguments.out:
        known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        known.setdefault("busy_elsewhere", {})[arguments.question] = elsewhere
        known |= {"machine": machine(), **found}
        arguments.out.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(found | {"busy_elsewhere": elsewhere}))  # noqa: T201


if __name__ == "__main__":
    main()

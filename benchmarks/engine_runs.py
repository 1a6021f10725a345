"""Many measurements of the engine with one loaded model: steps, whole files, and neighbours.

    python benchmarks/engine_runs.py '[{"kind": "steps", "rows": 8, "prompt": 64, "output": 128}]' \\
        --dummy-weights smollm2-135m --dtype bfloat16 --max-batch-size 256

The first argument is a JSON list of cases, the others are `paceline batch`'s flags. Prints one JSON line for the start
and one for each case, as soon as it is measured. Kinds:

- steps: `rows` equal requests of `prompt` random tokens and `output` more, or of so many that they stand around
  `context` tokens. The time of a decode step is wall time over steps, in the second half of those that had every row.
- offline: a file of requests, its first `limit` ones, in `mode` and `order`, `repeat` times after `warmup` passes.
- neighbours: whether `targets` requests get bit-identical tokens and log-probabilities alone and in two crowds of
  `rows`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import statistics
import sys
import traceback
from pathlib import Path
from typing import Any

from driving import GREEDY, Driven, Loaded
from paceline.server.config import Mode
from paceline.server.job import Job
from paceline.server.offline_jobs import prepare, read
from paceline.server.offline_run import OfflineRun
from paceline.server.request import Request, SamplingParams

Case = dict[str, Any]
_CONTEXT_STEPS = 48  # decode steps with every row, where a context is asked for


def main(argv: list[str]) -> None:
    cases: list[Case] = json.loads(argv[0])
    loaded = Loaded(argv[1:])
    shape = dataclasses.asdict(loaded.shape) if loaded.options.dummy_weights else None
    _print({"start": loaded.facts(), "shape": shape})
    for case in cases:
        try:
            _print(case | KINDS[case["kind"]](loaded, case))
        except Exception as exc:  # one case must not take the others with it
            traceback.print_exc()
            _print(case | {"error": f"{type(exc).__name__}: {exc}"})
    loaded.close()


def steps(loaded: Loaded, case: Case) -> Case:
    """The time of a decode step; see the module."""
    rows = case["rows"]
    prompt, output = _lengths(loaded, case)
    made = loaded.drive([loaded.request(f"{rows}-{i}", prompt, output) for i in range(rows)])
    full = full_steps(made, rows)
    stamps = [made.stamps[i][0] for i in full]
    if len(stamps) < 3:
        raise RuntimeError(f"only {len(stamps)} steps had all {rows} rows")
    times = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    second = times[len(times) // 2 :]
    step_s = statistics.fmean(second)
    return {
        "prompt": prompt,
        "output": output,
        # The last token that a step of the second half sees, in the middle of that half.
        "context_mean": prompt + output - len(second) / 2,
        "full_steps": len(times),
        "step_ms": step_s * 1e3,
        "step_ms_median": statistics.median(second) * 1e3,
        "step_ms_max": max(second) * 1e3,
        "tok_s": rows / step_s,
    }


def full_steps(made: Driven, rows: int) -> list[int]:
    """Which deliveries had a token for every row, up to the first one that had not any more."""
    found: list[int] = []
    for place, (_, tokens) in enumerate(made.stamps):
        if tokens == rows:
            found.append(place)
        elif found:
            break
    return found


def _lengths(loaded: Loaded, case: Case) -> tuple[int, int]:
    """Prompt and output tokens: given, or so that rows decode together around a context."""
    if "context" not in case:
        return case["prompt"], case["output"]
    rows, context = case["rows"], case["context"]
    budget = max(1, loaded.options.max_step_tokens - rows)
    # Rows that have read their prompts decode beside those that still read, and must outlast them.
    output = _CONTEXT_STEPS + -(-rows * context // budget)
    limit = loaded.ready.runner.info.max_context_tokens
    return max(1, min(context - output // 2, limit - output)), output


def offline(loaded: Loaded, case: Case) -> Case:
    """A file through `paceline batch`'s own loop; the engine and its prefix cache are new in each pass."""
    settings = {"mode": Mode(case.get("mode", loaded.options.mode))}
    options = loaded.options.model_copy(update=settings)
    tokenizer, info = loaded.ready.tokenizer, loaded.ready.runner.info
    entries = read(Path(case["workload"]))[: case.get("limit")]
    jobs = [prepare(entry, tokenizer, info) for entry in entries]
    assert all(isinstance(job, Job) for job in jobs)
    longest_first = case.get("order", "given") == "longest-first"
    warmup = case.get("warmup", 0)
    passes = []
    for number in range(warmup + case.get("repeat", 1)):
        done = OfflineRun(loaded.runner, options, tokenizer).run(jobs, longest_first)  # type: ignore[arg-type]
        if number >= warmup:
            passes.append(done)
    last = passes[-1]
    asked = [job.request.stopping.max_tokens for job in jobs if isinstance(job, Job)]
    got = [len(answer.token_ids) for answer in last.answers]
    walls = [done.wall_s for done in passes]
    return {
        "requests": len(jobs),
        "output_tokens": sum(got),
        "exact": got == asked,
        "wall_s_runs": walls,
        "output_tokens_per_s": sum(got) / statistics.median(walls),
        "steps": last.load.steps,
        "mean_rows": last.load.row_steps / last.load.steps,
        "padding_waste": 1 - last.load.real_tokens / last.load.padded_tokens,
    }


def neighbours(loaded: Loaded, case: Case) -> Case:
    """Whether anybody's tokens or log-probabilities depend on who else is there."""
    targets = [_target(loaded, number) for number in range(case["targets"])]
    alone = {}
    for target in targets:
        made = loaded.drive([target])
        alone[target.id] = (made.tokens[target.id], made.logprobs[target.id])
    different: list[str] = []
    for crowd in range(2):
        draw = random.Random(crowd)
        others = [_stranger(loaded, draw, crowd, i) for i in range(case["rows"] - len(targets))]
        together = [*targets, *others]
        draw.shuffle(together)
        made = loaded.drive(together)
        different += [
            f"{name} in crowd {crowd}"
            for name, expected in alone.items()
            if (made.tokens[name], made.logprobs[name]) != expected
        ]
    return {"compared": 2 * len(targets), "different": different, "identical": not different}


def _target(loaded: Loaded, number: int) -> Request:
    sampling = GREEDY if number % 2 == 0 else SamplingParams(temperature=0.8, seed=number)
    limit = loaded.ready.runner.info.max_context_tokens
    prompt, output = min(8 + 40 * number, limit // 2), min(64, limit // 4)
    return loaded.request(f"target-{number}", prompt, output, sampling, logprobs=1)


def _stranger(loaded: Loaded, draw: random.Random, crowd: int, number: int) -> Request:
    limit = loaded.ready.runner.info.max_context_tokens
    prompt, output = draw.randint(1, min(256, limit // 2)), draw.randint(1, min(128, limit // 4))
    sampling = SamplingParams(temperature=draw.choice([0.0, 1.0]), seed=draw.randrange(2**32))
    return loaded.request(f"stranger-{crowd}-{number}", prompt, output, sampling)


def _print(line: Case) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


KINDS = {"steps": steps, "offline": offline, "neighbours": neighbours}

if __name__ == "__main__":
    main(sys.argv[1:])

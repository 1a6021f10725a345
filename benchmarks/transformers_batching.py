"""transformers' own continuous batching on a file of requests, with paged SDPA.

    python benchmarks/transformers_batching.py WORKLOAD.jsonl --dummy-weights smollm2-135m --requests 128

Submits the first REQUESTS requests at once and prints one JSON line. After MAX-SECONDS it stops and counts the requests
that have ended; `whole` says whether that happened. Warm-up and loading are not timed. Runs under transformers 5.17
and later.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from paceline.server.config import ModelConfig
from paceline.server.job import Job
from paceline.server.offline_jobs import prepare, read
from paceline.server.request import Request
from paceline.server.runner.loading import LoadedModel, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", type=Path)
    parser.add_argument("--dummy-weights", required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--max-seconds", type=float, default=40.0)
    arguments = parser.parse_args()
    config = ModelConfig(
        dummy_weights=arguments.dummy_weights, dtype=arguments.dtype, device=arguments.device
    )
    loaded = load(config, "sdpa")
    jobs = [prepare(entry, loaded.tokenizer, loaded.info) for entry in read(arguments.workload)]
    requests = [job.request for job in jobs if isinstance(job, Job)][: arguments.requests]
    found = measure(loaded, requests, arguments.max_seconds)
    sys.stdout.write(json.dumps(found | {"requests_total": len(jobs)}) + "\n")


def measure(loaded: LoadedModel, requests: Sequence[Request], max_seconds: float) -> dict[str, Any]:
    """Output tokens and seconds of the requests, greedy, each to its own `max_tokens`."""
    generation = GenerationConfig(
        do_sample=False,
        eos_token_id=-1,  # nothing ends early
        pad_token_id=0,
        max_new_tokens=max(r.stopping.max_tokens for r in requests),
    )
    known = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
    settings: dict[str, Any] = (
        {"auto_switch_to_flash": False} if "auto_switch_to_flash" in known else {}
    )
    wanted = {r.id: r.stopping.max_tokens for r in requests}
    model: Any = loaded.model
    batching = model.continuous_batching_context_manager(
        generation_config=generation,
        continuous_batching_config=ContinuousBatchingConfig(**settings),
        block=True,
        timeout=5,
    )
    with batching as manager:
        _run(manager, requests[:2], 60.0, limit=4)
        started = time.perf_counter()
        done = _run(manager, requests, max_seconds)
        wall_s = time.perf_counter() - started
    return {
        "system": "transformers-continuous",
        "attention": loaded.model.config._attn_implementation,
        "requests": len(done),
        "output_tokens": sum(done.values()),
        "wall_s": wall_s,
        "whole": len(done) == len(requests),
        "exact": all(done[name] == wanted[name] for name in done),
    }


def _run(
    manager: Any, requests: Sequence[Request], max_seconds: float, limit: int | None = None
) -> dict[str, int]:
    """Tokens of each request that ended in time."""
    end = time.perf_counter() + max_seconds
    warming = "" if limit is None else "warm-up-"
    for request in requests:
        output = request.stopping.max_tokens if limit is None else limit
        name = f"{warming}{request.id}"
        manager.add_request(list(request.prompt_ids), request_id=name, max_new_tokens=output)
    done: dict[str, int] = {}
    while len(done) < len(requests) and time.perf_counter() < end:
        result = manager.get_result(timeout=0.5)
        if result is not None and result.is_finished():
            done[result.request_id.removeprefix(warming)] = len(result.generated_tokens)
        elif result is None and not manager.is_running():
            raise RuntimeError("transformers' generation thread has ended")
    return done


if __name__ == "__main__":
    main()

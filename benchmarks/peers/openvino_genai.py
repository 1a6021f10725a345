"""OpenVINO GenAI on a workload file: what `paceline batch` is measured beside on CPUs.

    python benchmarks/peers/openvino_genai.py WORKLOAD.jsonl [--precision fp32|bf16|int8] [--rows 32] [--threads 2]

Makes its own environment in `.peers/openvino` once (a few minutes), converts our embedded model with optimum
there, and runs the file through OpenVINO's continuous batching: greedy, exactly `max_tokens` tokens a request,
at most ROWS at a time. `--single` runs one stream of 64 + 64 tokens instead and reports TTFT and TPOT.
One pass that is not counted comes first. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

PEERS = Path(__file__).resolve().parents[2] / ".peers"
HOME = PEERS / "openvino"
PYTHON = HOME / "bin" / "python"
# torch is pinned to what the project uses: other versions bring CUDA along.
REQUIREMENTS = (
    "openvino==2026.4.1",
    "openvino-genai==2026.4.1.0",
    "openvino-tokenizers==2026.4.1.0",
    "optimum-intel==2.2.0",
    "nncf==3.4.0",
    "torch==2.13.0",
)
# The precision that is computed in; weights are stored in the same, or in int8.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
SINGLE_TOKENS = 64


def prepare(precision: str) -> Path:
    """The converted model, made first if need be, and the environment before it."""
    if not (HOME / ".complete").exists():
        venv.create(HOME, with_pip=True, clear=True)
        subprocess.run([PYTHON, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
        # Comes with optimum in a build for another torch, and then breaks every import of transformers.
        subprocess.run([PYTHON, "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
        (HOME / ".complete").touch()
    weights = "int8" if precision == "int8" else "fp32"
    folder = PEERS / f"SmolLM2-135M-Instruct-{weights}"
    if not (folder / "openvino_model.xml").exists():
        command = ["export", "openvino", "--model", str(_embedded())]
        command += ["--task", "text-generation-with-past", "--weight-format", weights, str(folder)]
        subprocess.run([HOME / "bin" / "optimum-cli", *command], check=True, stdout=sys.stderr)
    return folder


def _embedded() -> Path:
    from paceline.server.cache import cache_dir
    from paceline.server.config import ModelConfig
    from paceline.server.embedded import SMOLLM2
    from paceline.server.runner.prepare import prepare as fetch

    fetch(ModelConfig())
    return cache_dir() / "models" / SMOLLM2.name


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs inside the environment."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    requests = [json.loads(line) for line in arguments.workload.read_text().splitlines()]
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_seqs = 1 if arguments.single else arguments.rows
    scheduler.cache_size = 2  # GB
    scheduler.enable_prefix_caching = False
    started = time.perf_counter()
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[arguments.precision]}
    if arguments.threads:
        properties["INFERENCE_NUM_THREADS"] = arguments.threads
    pipeline = genai.ContinuousBatchingPipeline(str(arguments.folder), scheduler, "CPU", properties)
    load_s = time.perf_counter() - started

    def settings(max_tokens: int) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = True
        config.do_sample = False
        return config

    def tensor(ids: list[int]) -> Any:
        return ov.Tensor(np.array([ids], dtype=np.int64))

    if arguments.single:
        found = _single(pipeline, requests, settings, tensor)
    else:
        found = _file(pipeline, requests, settings, tensor, arguments.rows, arguments.repeat)
    return {
        "system": "OpenVINO GenAI",
        "version": genai.__version__,
        "precision": arguments.precision,
        "threads": arguments.threads,
        "load_s": load_s,
        **found,
        "cpu_s": sum(os.times()[:2]),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _file(
    pipeline: Any,
    requests: list[dict[str, Any]],
    settings: Any,
    tensor: Any,
    rows: int,
    repeat: int,
) -> dict[str, Any]:
    """Longest first, as `paceline batch` does."""
    requests = sorted(requests, key=lambda request: -request["max_tokens"])
    work = [(tensor(each["prompt_ids"]), settings(each["max_tokens"])) for each in requests]
    walls = []
    for _pass in range(1 + repeat):
        started = time.perf_counter()
        made = _run(pipeline, work, rows)
        walls.append(time.perf_counter() - started)
    wanted = [request["max_tokens"] for request in requests]
    if made != wanted:
        raise SystemExit(f"made {sum(made)} tokens, not {sum(wanted)}")
    wall_s = statistics.median(walls[1:])
    return {"output_tokens": sum(made), "wall_s_runs": walls[1:], "tok_s": sum(made) / wall_s}


def _run(pipeline: Any, work: list[tuple[Any, Any]], rows: int) -> list[int]:
    """Tokens that each request got, never more than `rows` of them under way.

    `max_num_seqs` alone does not see to that: where prompts and decoding share steps, as they do by default, the
    pipeline takes in all that it is given.
    """
    made = [0] * len(work)
    waiting = list(enumerate(work))[::-1]
    running: dict[int, Any] = {}
    while waiting or running:
        while waiting and len(running) < rows:
            number, (prompt, config) = waiting.pop()
            running[number] = pipeline.add_request(number, prompt, config)
        pipeline.step()
        for number, handle in list(running.items()):
            while handle.can_read():
                made[number] += sum(len(part.generated_ids) for part in handle.read().values())
            if made[number] >= work[number][1].max_new_tokens:
                del running[number]
    return made


def _single(
    pipeline: Any, requests: list[dict[str, Any]], settings: Any, tensor: Any
) -> dict[str, Any]:
    """Medians over five runs of one stream, in ms."""
    ids = [token for request in requests for token in request["prompt_ids"]][:SINGLE_TOKENS]
    firsts, steps = [], []
    for number in range(6):
        at = []
        started = time.perf_counter()
        handle = pipeline.add_request(number, tensor(ids), settings(SINGLE_TOKENS))
        while pipeline.has_non_finished_requests():
            pipeline.step()
            at.append(time.perf_counter())
        if len(at) < SINGLE_TOKENS:
            raise SystemExit(f"{len(at)} steps for {SINGLE_TOKENS} tokens")
        if number:
            firsts.append(at[0] - started)
            steps.append((at[-1] - at[0]) / (len(at) - 1))
        handle.read_all()
    return {"ttft_ms": statistics.median(firsts) * 1e3, "tpot_ms": statistics.median(steps) * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", type=Path)
    parser.add_argument("--precision", choices=tuple(HINTS), default="fp32")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="0: as OpenVINO chooses")
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--repeat", type=int, default=1, help="counted passes")
    parser.add_argument("--folder", type=Path, help="a converted model, for this Python to run")
    arguments = parser.parse_args()
    if arguments.folder is None:
        folder = prepare(arguments.precision)
        # -P: this file bears the name of the module it imports.
        command = [str(PYTHON), "-P", __file__, *sys.argv[1:], "--folder", str(folder)]
        os.execv(command[0], command)
    print(json.dumps(measure(arguments)))  # noqa: T201


if __name__ == "__main__":
    main()

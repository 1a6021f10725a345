"""Where a step's time goes under OpenVINO: steps of some lengths, the first and later ones, and their operators.

    python benchmarks/openvino_steps.py [--quantization int8] [--lines 1,8,256] [--peer FOLDER] [--out FILE]

A line of up to 32 tokens is as many decode rows behind 100 tokens each; a longer one is 7 such rows and one prompt.
`--peer` takes the folder of a model that OpenVINO's own tools converted (see `peers/openvino_genai.py`): it gets
OpenVINO's own transformation to paged attention, and the same steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch

from environment import machine
from paceline.server.config import ModelConfig
from paceline.server.runner.hardware import pick_threads
from paceline.server.runner.openvino_cache import recall
from paceline.server.runner.openvino_model import PAGE_SIZE, page
from paceline.server.runner.sources import resolve

RUNS, PAST, ROWS, PAGES = 5, 100, 32, 512


def ours(quantization: str) -> tuple[ov.Model, int, int]:
    """The embedded model as a server would have it, its key and value heads, and their size."""
    config = ModelConfig.model_validate({"quantization": quantization, "dtype": "float32"})
    found = recall(resolve(config), torch.float32, config)
    if found is None:
        raise SystemExit(
            "no converted model: run `paceline batch` on a CPU with these settings first"
        )
    page(found.model, found.shape)
    return found.model, found.shape.num_kv_heads, found.shape.head_dim


def theirs(folder: Path, heads: int, size: int) -> tuple[ov.Model, int, int]:
    from openvino._offline_transformations import paged_attention_transformation

    model = ov.Core().read_model(folder / "openvino_model.xml")
    paged_attention_transformation(model)
    return model, heads, size


class Steps:
    """A compiled model with a pool of pages, all of them zero."""

    def __init__(self, model: ov.Model, heads: int, size: int, *, profile: bool) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "INFERENCE_NUM_THREADS": pick_threads(None),
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": "YES" if profile else "NO",
        }
        compiled = ov.Core().compile_model(model, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._names = {name for each in compiled.inputs for name in each.names}
        for each in compiled.inputs:
            if "_cache." in each.get_any_name():
                pool = np.zeros((PAGES, heads, PAGE_SIZE, size), np.float32)
                self._request.set_tensor(each.get_any_name(), ov.Tensor(pool))

    def run(self, tokens: int) -> float:
        """Milliseconds of one step."""
        decode = tokens if tokens <= ROWS else 7
        rows = [(1, PAST)] * decode + ([(tokens - decode, 0)] if tokens > decode else [])
        pages = [-(-(new + past) // PAGE_SIZE) for new, past in rows]
        begins = list(accumulate((new for new, _ in rows), initial=0))
        positions = [p for new, past in rows for p in range(past, past + new)]
        inputs: dict[str, Any] = {
            "input_ids": np.full(tokens, 5, np.int64),
            "positions": np.array(positions, np.int64),
            "position_ids": np.array(positions, np.int64),
            "sample_at": np.array([end - 1 for end in begins[1:]], np.int64),
            "past_lens": np.array([past for _, past in rows], np.int32),
            "subsequence_begins": np.array(begins, np.int32),
            "block_indices": np.arange(1, 1 + sum(pages), dtype=np.int32),
            "block_indices_begins": np.array(list(accumulate(pages, initial=0)), np.int32),
            "max_context_len": np.array(max(new + past for new, past in rows), np.int32),
        }
        for name in inputs.keys() & self._names:
            self._request.set_tensor(name, ov.Tensor(inputs[name]))
        started = time.perf_counter()
        self._request.infer()
        return (time.perf_counter() - started) * 1e3

    def operators(self) -> dict[str, float]:
        """Milliseconds of a step by kind of operator: means over all steps so far."""
        found: Counter[str] = Counter()
        for node in self._request.get_profiling_info():
            if node.status == node.Status.EXECUTED:
                found[node.node_type] += node.cpu_time.total_seconds() * 1e3
        return {name: ms for name, ms in found.most_common(5) if ms >= 0.1}


def measure(model: ov.Model, heads: int, size: int, lines: list[int]) -> dict[str, Any]:
    """The first step of each length, which makes kernels, the median of later ones, and an 8-row step's operators."""
    steps, found = Steps(model, heads, size, profile=False), {}
    for tokens in lines:
        first, *later = (steps.run(tokens) for _ in range(1 + RUNS))
        found[tokens] = {"first_ms": first, "ms": statistics.median(later)}
    profiled = Steps(model, heads, size, profile=True)
    for _ in range(2 * RUNS):
        profiled.run(8)
    return {"lines": found, "operators_of_8_rows_ms": profiled.operators()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quantization", default="none", choices=("none", "int8"))
    parser.add_argument("--lines", default="1,8,32,64,100,128,256")
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = [int(part) for part in arguments.lines.split(",")]
    model, heads, size = ours(arguments.quantization)
    found: dict[str, Any] = {"machine": machine(), "quantization": arguments.quantization}
    found["ours"] = measure(model, heads, size, lines)
    if arguments.peer:
        found["peer"] = measure(*theirs(arguments.peer, heads, size), lines)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()

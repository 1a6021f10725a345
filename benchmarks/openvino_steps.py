"""Where a step's time goes under OpenVINO, and how long the same step takes a model that OpenVINO's own tools made.

    python benchmarks/openvino_steps.py [--precision bf16] [--lines 1,8,256] [--peer FOLDER] [--out FILE]

A line of up to 32 tokens is as many decode rows behind 100 tokens each; a longer one is 7 such rows and one prompt.
`--peer` takes the folder of a model that OpenVINO's own tools converted (see `peers/openvino_genai.py`): it gets
OpenVINO's own transformation to paged attention and, as GenAI does, OpenVINO's own choice of the pages' format. Both
compute each step in turn, so that a machine whose speed changes is the same to both: the ratio is the median over
pairs, beside its quartiles.
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
from paceline.server.runner.openvino_runner import TYPES
from paceline.server.runner.sources import resolve

FIRST, RUNS, PAST, ROWS, PAGES = 4, 21, 100, 32, 512
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
COMPUTES = {name: TYPES[dtype] for name, dtype in DTYPES.items()}


def ours(precision: str) -> ov.Model:
    """The embedded model as a server would have it."""
    dtype = DTYPES[precision]
    quantization = "int8" if precision == "int8" else "none"
    name = str(dtype).removeprefix("torch.")
    config = ModelConfig.model_validate({"quantization": quantization, "dtype": name})
    found = recall(resolve(config), dtype, config)
    if found is None:
        raise SystemExit(
            "no converted model: run `paceline batch` on a CPU with these settings first"
        )
    page(found.model, found.shape)
    return found.model


def theirs(folder: Path) -> ov.Model:
    from openvino._offline_transformations import paged_attention_transformation

    model = ov.Core().read_model(folder / "openvino_model.xml")
    paged_attention_transformation(model)
    return model


class Steps:
    """A compiled model with a pool of pages, all of them zero."""

    def __init__(
        self, model: ov.Model, computes: str, pages: str | None, *, profile: bool = False
    ) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": computes,
            "INFERENCE_NUM_THREADS": pick_threads(None),
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": "YES" if profile else "NO",
        }
        if pages is not None:
            settings["KV_CACHE_PRECISION"] = pages
        compiled = ov.Core().compile_model(model, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._names = {name for each in compiled.inputs for name in each.names}
        self.pages = ""
        for each in compiled.inputs:
            if "_cache." in each.get_any_name():
                kind = each.get_element_type()
                size = [PAGES, *list(each.get_partial_shape().get_max_shape())[1:]]
                self._request.set_tensor(each.get_any_name(), ov.Tensor(kind, ov.Shape(size)))
                self.pages = str(kind.get_type_name())

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


def measure(systems: dict[str, Steps], lines: list[int]) -> dict[str, Any]:
    """By length: each system's first step, which makes kernels, the median of later ones, and the ratio of pairs.

    A longer line has no ratio: there the peer's model, as it is here, computes logits of every token.
    """
    found: dict[str, Any] = {}
    for tokens in lines:
        times: dict[str, list[float]] = {name: [] for name in systems}
        for number in range(FIRST + RUNS):
            turn = list(systems)
            for name in turn if number % 2 else reversed(turn):
                times[name].append(systems[name].run(tokens))
        found[str(tokens)] = {
            name: {"first_ms": ms[0], "ms": statistics.median(ms[FIRST:])}
            for name, ms in times.items()
        }
        if "peer" in times and tokens <= ROWS:
            pairs = zip(times["ours"][FIRST:], times["peer"][FIRST:], strict=True)
            found[str(tokens)]["ratio"] = statistics.quantiles(mine / peer for mine, peer in pairs)
    return found


def operators(model: ov.Model, computes: str) -> dict[str, float]:
    """Milliseconds of an eight-row step by kind of operator."""
    profiled = Steps(model, computes, computes, profile=True)
    for _ in range(10):
        profiled.run(8)
    return profiled.operators()


def table(found: dict[str, Any]) -> str:
    """Of a step less is better: below 1 ours is the faster one."""
    lines = [
        "| tokens | ours, ms | OpenVINO's, ms | ratio | quartiles |",
        "|---|---:|---:|---:|---:|",
    ]
    for tokens, line in found.items():
        if "ratio" in line:
            low, middle, high = line["ratio"]
            both = f"{line['ours']['ms']:.1f} | {line['peer']['ms']:.1f}"
            lines.append(f"| {tokens} | {both} | {middle:.2f} | {low:.2f}-{high:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="fp32", choices=tuple(DTYPES))
    parser.add_argument("--lines", default="1,8,32,64,100,128,256")
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = [int(part) for part in arguments.lines.split(",")]
    computes = COMPUTES[arguments.precision]
    systems = {"ours": Steps(ours(arguments.precision), computes, computes)}
    if arguments.peer:
        systems["peer"] = Steps(theirs(arguments.peer), computes, None)
    found = {
        "machine": machine(),
        "precision": arguments.precision,
        "pages": {name: steps.pages for name, steps in systems.items()},
        "lines": measure(systems, lines),
        "operators_of_8_rows_ms": operators(ours(arguments.precision), computes),
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))  # noqa: T201
    print(table(found["lines"]))  # noqa: T201


if __name__ == "__main__":
    main()

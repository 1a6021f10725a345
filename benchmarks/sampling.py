"""How long the GPU takes to choose the tokens of a step.

    python benchmarks/sampling.py [--rows 1,8,64,256] [--vocab 49152,128256] [--dtype bfloat16] [--eager]

Each case is recorded as a CUDA graph and replayed; the time of one choice is the median over many replays, by CUDA
events around ten replays each. Before a case is timed, its tokens are compared with those of the slow path. Prints a
JSON object a line. `--eager` times the launches without a graph.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable

import torch
from torch import Tensor

from device_time import median_us
from paceline.server.request import SamplingParams
from paceline.server.runner.sampling import SampleRow, sample_tokens
from paceline.server.runner.sampling_state import SamplingState
from paceline.server.runner.sampling_table import SetRow, Variant

REPEATS = 50
REPLAYS = 10
# What the rows ask for, how peaked the logits are, and the variant that such rows need.
CASES = {
    "greedy": (SamplingParams(temperature=0.0), 3.0, Variant.GREEDY),
    "temperature": (SamplingParams(), 3.0, Variant.SAMPLED),
    "top_k": (SamplingParams(top_k=50), 3.0, Variant.SAMPLED),
    "top_p": (SamplingParams(top_p=0.9), 3.0, Variant.SAMPLED),
    "top_k_top_p_min_p": (SamplingParams(top_k=50, top_p=0.9, min_p=0.02), 3.0, Variant.SAMPLED),
    "top_p_of_flat_rows": (SamplingParams(top_p=0.9), 0.05, Variant.SAMPLED),
    "penalties": (
        SamplingParams(repetition_penalty=1.1, presence_penalty=0.5, top_p=0.9),
        3.0,
        Variant.FULL,
    ),
    "bias": (SamplingParams(temperature=0.0, logit_bias=((1, 1.0),)), 3.0, Variant.FULL),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", default="1,8,64,256")
    parser.add_argument("--vocab", default="49152,128256")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda")
    for vocab in map(int, args.vocab.split(",")):
        for rows in map(int, args.rows.split(",")):
            for name in args.cases.split(","):
                case = _case(name, rows, vocab, getattr(torch, args.dtype), device, args.eager)
                print(json.dumps(case), flush=True)  # noqa: T201


def _case(
    name: str, rows: int, vocab: int, dtype: torch.dtype, device: torch.device, eager: bool
) -> dict[str, object]:
    params, scale, variant = CASES[name]
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(rows, vocab, generator=generator, device=device).mul_(scale).to(dtype)
    asked = [
        SampleRow(dataclasses.replace(params, seed=i), 5, (), (1, 2, 3), (4, 5, 5, 6, 7))
        for i in range(rows)
    ]
    state = SamplingState(rows, vocab, device)
    state.set_rows(
        range(rows),
        [SetRow(row.params, (), 0, row.prompt_ids, row.output_ids) for row in asked],
    )
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    positions = torch.full_like(slots, 5)
    tokens, last = torch.zeros_like(slots), torch.zeros_like(slots)

    def choose() -> None:
        state.choose(logits, slots, positions, tokens, last, variant)

    choose()
    equal = int((tokens == sample_tokens(logits, asked)).sum())
    micros = _time(choose if eager else _recorded(choose))
    return {
        "case": name,
        "rows": rows,
        "vocab": vocab,
        "microseconds": round(micros, 2),
        "slow_path_microseconds": round(_time(lambda: sample_tokens(logits, asked)), 2),
        "equal_to_slow_path": equal,
        "fixed_bytes": state.fixed_bytes,
        "extra_bytes": state.extra_bytes,
        "graph": not eager,
        "device": torch.cuda.get_device_name(device),
    }


def _recorded(launch: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return graph.replay


def _time(launch: Callable[[], Tensor | None]) -> float:
    for _ in range(3):
        launch()
    return median_us(launch, REPEATS, REPLAYS)


if __name__ == "__main__":
    main()

"""The linear layers of three models at few rows: each way to run them, timed on the GPU at hand.

    python benchmarks/linear.py [--models smollm2-135m,llama-1b,llama-8b] [--rows 1,8,16,32,64] [--out FILE.json]
        [--seconds 95] [--compiled] [--fp8]

A time is that of one call inside a CUDA graph whose calls take turns with weights beyond the L2 cache. `eager`
is transformers' own code, `torch` ours around cuBLAS, `copy` the read half of a device copy. Prints a
Markdown table of the fastest ways; `--out` keeps every time: `linear_configs.pick` was written from such a file.
No measurement begins after `--seconds`. `--smoke` runs tiny layers on a CPU in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

if "--smoke" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import torch
from torch import Tensor
from torch.nn import functional as F

from linear_timing import (
    EPS,
    Trial,
    fastest,
    make_trial,
    measure,
    time_configs,
)
from paceline.server.runner.linear_configs import TORCH, Config, Layer, candidates, pick
from paceline.server.runner.scaled import FP8, Scaled, Weight
from paceline.server.runner.triton_linear import plan
from paceline.server.runner.triton_rows import Norm

# name: hidden, outputs of qkv, inputs of o, intermediate, vocabulary
MODELS = {
    "smollm2-135m": (576, 960, 576, 1536, 49152),
    "llama-1b": (2048, 3072, 2048, 8192, 128256),
    "llama-8b": (4096, 6144, 4096, 14336, 128256),
    "smoke": (32, 48, 32, 48, 80),
}
COPY_BYTES = 1 << 30
Row = dict[str, Any]
Work = tuple[str, str, Layer, int]  # model, layer's name, layer, rows


def layers(model: str, element_bytes: int) -> dict[str, Layer]:
    hidden, qkv, o, intermediate, vocabulary = MODELS[model]
    found = {
        "qkv": Layer("norm_linear", qkv, hidden, element_bytes),
        "o": Layer("linear_residual", hidden, o, element_bytes),
        "gate_up": Layer("norm_gated", intermediate, hidden, element_bytes),
        "down": Layer("linear_residual", hidden, intermediate, element_bytes),
    }
    if element_bytes == 1:  # the output matrix stays in bfloat16
        return found
    return found | {"lm_head": Layer("linear", vocabulary, hidden)}


def ways(layer: Layer, m: int) -> list[Config]:
    """What is timed: the built-in guess, and what else is worth it."""
    return list(dict.fromkeys([pick(layer, m), *candidates(layer, m)]))


def eager(trial: Trial, turn: int) -> Tensor:
    """The layer as transformers' modules compute it."""
    weight, op = trial.weights[turn % len(trial.weights)], trial.layer.op
    assert isinstance(weight, Tensor)
    x = trial.x
    if trial.layer.has_norm:
        h = x.to(torch.float32)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
        x = trial.norm * h.to(x.dtype)
    out = F.linear(x, weight)
    if op == "norm_gated":
        gate, up = out.chunk(2, dim=-1)
        return F.silu(gate) * up
    return trial.residual + out if op == "linear_residual" else out


def copy_gb_s(device: torch.device) -> float:
    """Bytes read and written a second by a device copy, in GB."""
    size = COPY_BYTES if device.type == "cuda" else 1 << 20
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda _: target.copy_(source), 5, device) / 1e3


def run_layer(
    model: str, name: str, layer: Layer, m: int, device: torch.device, compiled: bool
) -> Row:
    """All times of one layer at `m` rows; `best` is the fastest of ours."""
    trial = make_trial(layer, m, device)
    rows = time_configs(trial, ways(layer, m))
    row: Row = {"model": model, "layer": name, **asdict(layer), "m": m, "key": layer.key(m)}
    if layer.element_bytes == 1:
        compiled = False
    else:
        row["eager_us"] = measure(lambda turn: eager(trial, turn), trial.calls, device)
    if compiled:
        fast: Callable[[Trial, int], Tensor] = torch.compile(eager, dynamic=False)
        row["compiled_us"] = measure(lambda turn: fast(trial, turn), trial.calls, device)
    row["torch_us"] = next(r["us"] for r in rows if r["config"]["kind"] == "torch")
    row["best"] = fastest(rows)
    row["gb_s"] = layer.weight_bytes / row["best"]["us"] / 1e3
    return row | {"candidates": rows}


def compile_one(layer: Layer, m: int, config: Config) -> None:
    """In a process of its own: leaves the kernel in Triton's cache on disk."""
    make: Any = {"dtype": torch.bfloat16, "device": "meta"}
    x, out = torch.empty(m, layer.k, **make), torch.empty(m, layer.n, **make)
    norm = None
    if layer.has_norm and config.fuse_norm:
        norm = Norm(torch.empty(layer.k, **make), EPS, 0.0)
    weight: Weight = torch.empty(layer.weight_rows, layer.k, **make)
    if layer.element_bytes == 1:
        scale = torch.empty(layer.weight_rows, dtype=torch.float32, device="meta")
        weight = Scaled(weight.to(FP8), scale)
    plan(
        x,
        weight,
        None,
        out,
        config,
        norm=norm,
        activation="silu_mul" if layer.op == "norm_gated" else None,
        residual=out if layer.op == "linear_residual" else None,
    ).compile()


def compile_all(work: list[Work], limit_s: float) -> Row:
    """Compiles the kernels in parallel. What fails or is late is compiled again where it is timed."""
    started = time.monotonic()
    jobs = {}
    for _, _, layer, m in work:
        for config in ways(layer, m):
            if config != TORCH:
                jobs[layer.key(m), config] = (layer, m, config)
    workers = max(1, min(12, len(os.sched_getaffinity(0)) - 2))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    futures = {pool.submit(compile_one, *job): job for job in jobs.values()}
    done, late = wait(futures, timeout=limit_s)
    failed = [f"{futures[f]}: {f.exception()}"[:300] for f in done if f.exception()]
    failed += [f"{futures[f]}: late" for f in late]
    pool.shutdown(wait=False, cancel_futures=True)
    seconds = time.monotonic() - started
    return {"kernels": len(jobs), "workers": workers, "seconds": seconds, "failed": failed}


def in_order(models: list[str], ms: list[int], element_bytes: int) -> Iterator[Work]:
    """The numbers of rows that matter most come first, in case time runs out."""
    for m in sorted(ms, key=lambda m: (m not in (1, 16), m)):
        for model in models:
            for name, layer in layers(model, element_bytes).items():
                yield model, name, layer, m


def table(rows: list[Row], copy: float) -> Iterator[str]:
    yield "| model | layer | M | best | µs | torch µs | eager µs | compiled µs | GB/s | of copy |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        best = Config(**row["best"]["config"])
        how = (
            f"{best.kind} {best.block_n}x{best.block_k} split {best.split_k} warps {best.num_warps}"
        )
        how += f" stages {best.num_stages}{'' if best.fuse_norm else ', norm before'}"
        eager, compiled = (
            f"{row[key]:.2f}" if key in row else "-" for key in ("eager_us", "compiled_us")
        )
        yield (
            f"| {row['model']} | {row['layer']} | {row['m']} | {'torch' if best == TORCH else how} "
            f"| {row['best']['us']:.2f} | {row['torch_us']:.2f} | {eager} | {compiled} "
            f"| {row['gb_s']:.0f} | {row['gb_s'] / copy:.2f} |"
        )


def guesses(rows: list[Row]) -> Iterator[str]:
    """How far the built-in guess is from the best, where it is far, and what could not run."""
    for row in rows:
        layer = Layer(row["op"], row["n"], row["k"], row["element_bytes"])
        guess = asdict(pick(layer, row["m"]))
        us = next((r["us"] for r in row["candidates"] if r["config"] == guess and "us" in r), None)
        if us is None or us > 1.1 * row["best"]["us"]:
            yield f"guess for {row['key']}: {us} µs, best {row['best']['us']:.2f} µs"
        for each in row["candidates"]:
            if "error" in each:
                yield f"failed: {row['key']} {each}"


def say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="smollm2-135m,llama-1b,llama-8b")
    parser.add_argument("--rows", default="1,8,16,32,64")
    parser.add_argument("--seconds", type=float, default=95.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compiled", action="store_true", help="time torch.compile too; slow")
    parser.add_argument("--fp8", action="store_true", help="weights in fp8")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    started = time.monotonic()
    if not options.smoke and not torch.cuda.is_available():
        parser.error("no GPU; --smoke needs none")
    device = torch.device("cpu") if options.smoke else torch.device("cuda", 0)
    models = ["smoke"] if options.smoke else options.models.split(",")
    rows_asked = [int(m) for m in options.rows.split(",")]
    work = list(in_order(models, rows_asked, 1 if options.fp8 else 2))
    compiling = {} if options.smoke else compile_all(work, options.seconds * 0.6)
    say(f"compiled: {compiling}")
    copy = copy_gb_s(device)
    rows: list[Row] = []
    with torch.inference_mode():
        for model, name, layer, m in work:
            if time.monotonic() - started > options.seconds:
                break
            rows.append(run_layer(model, name, layer, m, device, options.compiled))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, interpreted"
    result: Row = {"device": gpu, "torch": torch.__version__, "copy_gb_s": copy}
    result |= {"seconds": time.monotonic() - started, "skipped": len(work) - len(rows)}
    result |= {"compiling": compiling, "layers": rows}
    say(f"{gpu}, torch {torch.__version__}, copy {copy:.0f} GB/s, {result['seconds']:.0f} s,")
    say(f"{result['skipped']} layers skipped for time", "")
    say(*table(rows, copy))
    say("", *guesses(rows))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

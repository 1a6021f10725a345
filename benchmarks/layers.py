"""A decode step of a few layers: each way to run their products, timed in the chain on the GPU at hand.

    python benchmarks/layers.py [--cases llama-8b:8,llama-8b:8:fp8,...] [--seconds 600] [--out FILE.json] [--smoke]

A time is that of one step at 160 tokens of context, replayed as a CUDA graph: six layers of llama-8b, all of smaller
models. For each product each way is tried while the others stay as they are, in two rounds, beginning with the
built-in choice. Prints a Markdown table in microseconds; its gain is that of the best ways over the built-in choice
without early launches. `--out` keeps every time: `linear_configs.pick` was written from such a file. No case is begun
that would end after `--seconds`. `--smoke` runs tiny layers and few ways on a CPU in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

if "--smoke" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import torch

from environment import machine
from layer_chain import SMOKE, Case, Chain, compile_one
from layer_ways import ways
from paceline.server.errors import SetupError
from paceline.server.runner import triton_early
from paceline.server.runner.linear_configs import TORCH, Config

CASES = ",".join(
    [
        f"{shape}:{rows}"
        for shape in ("llama-8b", "llama-1b", "smollm2-135m")
        for rows in (1, 8, 32, 64)
    ]
    + [f"llama-8b:{rows}:fp8" for rows in (1, 8, 32)]
)
SMOKE_CASES = f"{SMOKE}:1,{SMOKE}:3,{SMOKE}:3:fp8"
SMOKE_WAYS = 3
ROUNDS, KEPT = 2, 4  # ways that a second round tries again
COMPILE_SHARE = 0.4  # of the time there is
BEHIND = 1.02  # the built-in choice over the best, from where on it is told
Result = dict[str, Any]
Ways = dict[str, list[Config]]


def attempt(chain: Chain, chosen: dict[str, Config], config: Config) -> Result:
    """One way, with its `us` and how far its logits differ, or with the `error` for which it cannot be used."""
    try:
        us, differs = chain.measure(chosen)
    except Exception as exc:  # a way that this GPU cannot run is only no candidate
        return {"config": asdict(config), "error": f"{type(exc).__name__}: {exc}"[:200]}
    return {"config": asdict(config), "us": us, "differs": differs}


def search(chain: Chain, ways_of: Ways) -> tuple[dict[str, Config], dict[str, list[Result]]]:
    """The best way of each layer, and all ways as they were last measured. The first of each is the one to begin with.

    A second round is needed since what is best for a layer depends on its neighbours, which change in the first.
    """
    best = {name: configs[0] for name, configs in ways_of.items()}
    trying = dict(ways_of)
    last: dict[str, dict[Config, Result]] = {name: {} for name in ways_of}
    for _ in range(ROUNDS):
        for name, configs in trying.items():
            tried = {each: attempt(chain, best | {name: each}, each) for each in configs}
            last[name] |= tried
            ran = [each for each in configs if "us" in tried[each]]
            ran.sort(key=lambda each: float(tried[each]["us"]))
            best[name] = ran[0] if ran else best[name]
            trying[name] = ran[:KEPT]
    return best, {name: list(rows.values()) for name, rows in last.items()}


def run_case(case: Case, ways_of: Ways, device: torch.device) -> Result:
    chain = Chain(case, device)
    built_in = {name: configs[0] for name, configs in ways_of.items()}
    off_us, _ = chain.measure(built_in, early=False)
    on_us, _ = chain.measure(built_in)
    best, tried = search(chain, ways_of)
    best_us, _ = chain.measure(best)
    best_off_us, _ = chain.measure(best, early=False)
    return {
        "early_off_us": off_us,
        "early_on_us": on_us,
        "best_us": best_us,
        "best_early_off_us": best_off_us,
        "built_in": {name: asdict(config) for name, config in built_in.items()},
        "best": {name: asdict(config) for name, config in best.items()},
        "ways": tried,
    }


def compile_all(work: dict[Case, Ways], limit_s: float) -> Result:
    """Compiles the kernels in parallel. What fails or is late is compiled again where it is timed."""
    started = time.monotonic()
    jobs = {
        (case.layers[name], case.rows, config): None
        for case, ways_of in work.items()
        for name, configs in ways_of.items()
        for config in configs
        if config != TORCH
    }
    workers = max(1, min(15, len(os.sched_getaffinity(0)) - 1))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    futures = {pool.submit(compile_one, *job): job for job in jobs}
    done, late = wait(futures, timeout=limit_s)
    failed = [f"{futures[each]}: {each.exception()}"[:300] for each in done if each.exception()]
    pool.shutdown(wait=False, cancel_futures=True)
    seconds = time.monotonic() - started
    return {"kernels": len(jobs), "seconds": seconds, "failed": failed, "late": len(late)}


def run_all(work: dict[Case, Ways], device: torch.device, end: float) -> Iterator[Result]:
    """A result a case, those that failed or that there was no time for included."""
    longest = 0.0
    for case, ways_of in work.items():
        facts: Result = {"case": str(case)} | asdict(case)
        started = time.monotonic()
        if started + longest >= end:
            yield facts | {"skipped": True}
            continue
        try:
            yield facts | run_case(case, ways_of, device)
        except Exception as exc:  # the other cases count
            yield facts | {"error": f"{type(exc).__name__}: {exc}"[:500]}
        torch.cuda.empty_cache()
        longest = max(longest, time.monotonic() - started)


def table(results: Sequence[Result]) -> Iterator[str]:
    yield "| case | early off | early on | best ways | gain |"
    yield "|---|---:|---:|---:|---:|"
    for result in results:
        if "best_us" not in result:
            yield f"| {result['case']} | {'skipped' if 'skipped' in result else 'failed'} | | | |"
            continue
        off, on, best = (result[f"{key}_us"] for key in ("early_off", "early_on", "best"))
        yield f"| {result['case']} | {off:.1f} | {on:.1f} | {best:.1f} | {off / best:.2f} |"


def remarks(results: Sequence[Result]) -> Iterator[str]:
    """Where the built-in choice is behind and what is better, and what could not be run."""
    for result in results:
        case = result["case"]
        if "error" in result:
            yield f"{case} failed: {result['error']}"
        if result.get("early_on_us", 0.0) > BEHIND * result.get("best_us", 0.0):
            behind = result["early_on_us"] / result["best_us"] - 1
            better = (
                f"{name} {spelled(Config(**config))}"
                for name, config in result["best"].items()
                if config != result["built_in"][name]
            )
            yield f"{case}: the built-in choice is {behind:.1%} behind: {'; '.join(better)}"
        for name, rows in result.get("ways", {}).items():
            for row in rows:
                if "error" in row:
                    way = spelled(Config(**row["config"]))
                    yield f"{case}: {name} {way} failed: {row['error']}"


def spelled(config: Config) -> str:
    if config == TORCH:
        return "torch"
    split = f" split {config.split_k}" if config.split_k > 1 else ""
    norm = "" if config.fuse_norm else ", norm before"
    how = f"warps {config.num_warps}, stages {config.num_stages}{norm}"
    return f"{config.kind} {config.block_n}x{config.block_k}{split}, {how}"


def plan_work(text: str, smoke: bool) -> dict[Case, Ways]:
    """The ways to measure by case. ValueError or SetupError for cases that are none."""
    work = {}
    for case in map(Case.parse, text.split(",")):
        found = {name: ways(layer, case.rows) for name, layer in case.layers.items()}
        work[case] = {name: each[: SMOKE_WAYS if smoke else None] for name, each in found.items()}
    return work


def say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", help=f"SHAPE:ROWS or SHAPE:ROWS:fp8, default {CASES}")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    if not options.smoke and not torch.cuda.is_available():
        parser.error("no GPU; --smoke needs none")
    device = torch.device("cpu") if options.smoke else torch.device("cuda", 0)
    try:
        work = plan_work(options.cases or (SMOKE_CASES if options.smoke else CASES), options.smoke)
    except (ValueError, SetupError) as exc:
        parser.error(str(exc))
    told: Result = {"machine": machine(), "command": sys.argv[1:], "early": triton_early.can()}
    if not options.smoke:
        told["compiled"] = compile_all(work, options.seconds * COMPILE_SHARE)
    told["cases"] = []
    for result in run_all(work, device, end):
        told["cases"].append(result)
        sys.stderr.write(f"{result['case']}: {result.get('best_us', 'no time')}\n")
        if options.out:  # after each case, so that what was measured outlasts what comes
            options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    say(*table(told["cases"]), "", *remarks(told["cases"]))
    if any("error" in result for result in told["cases"]):
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The parts of `gpu.py`: which commands each one runs, and what is kept of what they print."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu_scale import Scale
from measuring import ROOT, Bench, Failed, Result, spelled

PACELINE = ("-m", "paceline.client.cli")
# What the engine's speed is made of, switched off.
EAGER = (
    "--compile",
    "off",
    "--no-fused-layers",
    "--no-cuda-graphs",
    "--no-launch-ahead",
)
# The steps of the ladder that are made with `paceline batch`, each with what it adds.
RUNGS = (
    ("graphs", ("--compile", "off", "--no-fused-layers", "--no-launch-ahead")),
    ("compile", ("--compile", "on", "--no-fused-layers", "--no-launch-ahead")),
    ("fused-layers", ("--no-launch-ahead",)),
    ("launch-ahead", ()),
)
LADDER_SHAPE = "smollm2-135m"
STEP_SHAPES = ("smollm2-135m", "llama-1b", "llama-8b")
_LARGE = re.compile(r"-[2-9]\d*b$|-\d{2,}b$")
# Starting a process, importing, loading, compiling and capturing, in seconds; a second start takes less.
_START_S = 25.0
_KEPT = (
    "requests",
    "output_tokens",
    "output_tokens_per_s",
    "wall_s_runs",
    "steps",
    "mean_rows",
    "padding_waste",
    "preemptions",
    "load_s",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much, how often, and with which numbers of front ends (`auto`: what the server chooses)."""

    scale: Scale
    rounds: int
    frontends: tuple[str, ...]

    def flags(
        self, shape: str, context: int, rows: int | None = None, tokens: int | None = None
    ) -> list[str]:
        """What `paceline batch` and `paceline serve` are told of the model and the batch."""
        scale = self.scale
        settings = {
            "--dummy-weights": shape,
            "--dtype": scale.dtype,
            "--device": scale.device,
            "--max-batch-size": rows or scale.rows,
            "--max-step-tokens": tokens or scale.step_tokens,
            "--max-context-tokens": context,
        }
        return [str(part) for item in settings.items() for part in item]


def shapes_of(part: str, shapes: Sequence[str]) -> list[str]:
    """The models that a part measures: the ladder and what is served are about the smallest, steps about all sizes."""
    if part in ("offline", "profile", "growth", *SEVERAL):
        return list(shapes)
    if part == "steps":
        whole = set(shapes) >= {STEP_SHAPES[0], STEP_SHAPES[-1]}
        return list(STEP_SHAPES if whole else shapes)
    if part == "fp8":
        return [shape for shape in shapes if _LARGE.search(shape)]
    return [LADDER_SHAPE if LADDER_SHAPE in shapes else shapes[0]]


def ladder(bench: Bench, plan: Plan, shape: str) -> None:
    scale = plan.scale
    model = ["--dummy-weights", shape, "--dtype", scale.dtype, "--device", scale.device]

    def generate() -> Result:
        command = [*PACELINE, "baseline", scale.workload, *model]
        command += [
            "--batch-sizes",
            str(scale.baseline_rows),
            "--max-seconds",
            f"{scale.baseline_s:g}",
        ]
        lines = bench.lines(command)
        for line in lines:
            del line["latency_s"]
            line["output_tokens_per_s"] = line["output_tokens"] / line["wall_s"]
        return {"command": spelled(command, bench.folder), "systems": lines}

    def batching() -> Result:
        command = ["benchmarks/transformers_batching.py", scale.workload, *model]
        command += ["--requests", str(scale.peer_requests), "--max-seconds", f"{scale.peer_s:g}"]
        (line,) = bench.lines(command)
        line["output_tokens_per_s"] = line["output_tokens"] / line["wall_s"]
        return line | {"command": spelled(command, bench.folder)}

    def modes() -> Result:
        cases: list[Result] = [
            {"kind": "offline", "workload": scale.workload, "mode": mode, "warmup": 0}
            for mode in ("continuous", "dynamic", "static", "sequential")
        ]
        cases[-1]["limit"] = scale.sequential_requests
        return _cases(bench, cases, [*plan.flags(shape, scale.context), *EAGER])

    bench.unit("ladder/transformers", 45, generate)
    bench.unit("ladder/transformers-continuous", 45, batching)
    bench.unit("ladder/modes", 70, modes)
    for name, settings in RUNGS:
        flags = [*plan.flags(shape, scale.context), *settings, "--order", "given"]
        bench.unit(f"ladder/{name}", 40, partial(_batch, bench, plan, flags))
    bench.unit("ladder/served", 40, lambda: _served_file(bench, plan, shape))


def offline(bench: Bench, plan: Plan, shape: str) -> None:
    flags = plan.flags(shape, plan.scale.context)
    needs_s = 60 if _LARGE.search(shape) else 30
    bench.unit(f"offline/{_name(shape)}", needs_s, lambda: _batch(bench, plan, flags))


def steps(bench: Bench, plan: Plan, shape: str) -> None:
    scale = plan.scale
    cases = [_step(rows, scale) for rows in scale.step_rows]
    flags = plan.flags(shape, scale.context)
    bench.unit(f"steps/{_name(shape)}", _START_S + 10, lambda: _cases(bench, cases, flags))


def growth(bench: Bench, plan: Plan, shape: str) -> None:
    scale = plan.scale
    cases: list[Result] = [_step(rows, scale) for rows in scale.growth_rows]
    cases += [
        {"kind": "steps", "rows": rows, "context": context}
        for rows in scale.context_rows
        for context in scale.growth_contexts
    ]
    most = max(*scale.growth_rows, *scale.context_rows)
    flags = plan.flags(shape, scale.long_context, most, scale.long_step_tokens)
    needs_s = 70 if _LARGE.search(shape) else 40
    bench.unit(f"growth/{_name(shape)}", needs_s, lambda: _cases(bench, cases, flags))


def streams(bench: Bench, plan: Plan, shape: str) -> None:
    scale = plan.scale
    options = ["--concurrency", scale.levels, "--prompt", str(scale.stream_prompt)]
    options += ["--output", str(scale.stream_output)]
    options += ["--requests-per-stream", str(scale.requests_per_stream)]
    options += ["--min-requests", str(scale.min_requests)]
    for count in plan.frontends:
        flags = [*plan.flags(shape, scale.context), *_frontends(count)]
        bench.unit(f"streams/{count}", _START_S + 30, partial(_served, bench, flags, options))


def profile(bench: Bench, plan: Plan, shape: str) -> None:
    command = ["benchmarks/profile_gpu.py", plan.scale.profile_rows]
    command += plan.flags(shape, plan.scale.context)

    def measure() -> Result:
        return {"command": spelled(command, bench.folder), "cases": bench.lines(command)}

    bench.unit(f"profile/{_name(shape)}", _START_S + 10, measure)


def deterministic(bench: Bench, plan: Plan, shape: str) -> None:
    scale = plan.scale
    throughput = {"kind": "offline", "workload": scale.workload, "warmup": 1, "repeat": plan.rounds}
    neighbours = {"kind": "neighbours", "targets": scale.targets, "rows": scale.rows}
    flags = plan.flags(shape, scale.context)
    if bench.result("ladder/launch-ahead") is None:  # else that is the measure
        bench.unit("deterministic/off", _START_S, lambda: _cases(bench, [throughput], flags))
    bench.unit(
        "deterministic/on",
        _START_S + 10,
        lambda: _cases(bench, [throughput, neighbours], [*flags, "--deterministic"]),
    )


def fp8(bench: Bench, plan: Plan, shape: str) -> None:
    """The file and decode steps with weights in fp8, beside the parts `offline` and `steps`."""
    flags = [*plan.flags(shape, plan.scale.context), "--quantization", "fp8"]
    cases = [_step(rows, plan.scale) for rows in plan.scale.step_rows]
    bench.unit(f"fp8/steps-{_name(shape)}", _START_S + 20, lambda: _cases(bench, cases, flags))
    bench.unit(f"fp8/offline-{_name(shape)}", 60, lambda: _batch(bench, plan, flags))


def replicas(bench: Bench, plan: Plan, shape: str) -> None:
    """One engine, then one for each GPU, each with as many streams as it has rows."""
    scale = plan.scale
    for engines in sorted({1, scale.gpus}):
        flags = [*plan.flags(shape, scale.context), "--replicas", str(engines)]
        options = ["--concurrency", str(engines * scale.rows), "--prompt", str(scale.stream_prompt)]
        options += ["--output", str(scale.stream_output), "--requests-per-stream", "4"]
        measure = partial(_served, bench, flags, options)
        bench.unit(f"replicas/{_name(shape)}-{engines}", _START_S + 30, measure)


def tensor_parallel(bench: Bench, plan: Plan, shape: str) -> None:
    """A model whose layers are spread over all GPUs, beside one GPU by the same attention, and by its own."""
    folder, scale = bench.folder / f"{_name(shape)}-saved", plan.scale
    save = ["benchmarks/random_model.py", shape, str(folder)]
    model = ["--model", str(folder), "--max-batch-size", "64", "--max-context-tokens", "1024"]
    options = ["--concurrency", "1,64", "--prompt", str(scale.stream_prompt)]
    options += ["--output", str(scale.stream_output), "--requests-per-stream", "3"]
    ways = {
        f"{scale.gpus} GPUs": ["--tensor-parallel", str(scale.gpus)],
        "1 GPU": [],
        "1 GPU, padded attention": ["--attention", "sdpa"],
    }
    bench.unit(f"saved/{_name(shape)}", 20, lambda: {"saved": bench.lines(save)})
    for way, flags in ways.items():
        measure = partial(_served, bench, [*model, *flags], options)
        bench.unit(f"tensor-parallel/{_name(shape)}, {way}", _START_S + 30, measure)


PARTS = {
    "ladder": ladder,
    "offline": offline,
    "steps": steps,
    "streams": streams,
    "deterministic": deterministic,
    "profile": profile,
    "growth": growth,
    "fp8": fp8,
}
# Of hosts with several GPUs, asked for by name.
SEVERAL = {"replicas": replicas, "tensor-parallel": tensor_parallel}


def _step(rows: int, scale: Scale) -> Result:
    return {"kind": "steps", "rows": rows, "prompt": scale.prompt, "output": scale.output}


def _name(shape: str) -> str:
    """A shape's own name; a config.json goes by its folder's."""
    return shape.removesuffix("/config.json").rpartition("/")[2]


def _cases(bench: Bench, cases: Sequence[Result], flags: Sequence[str]) -> Result:
    """Several measurements with one loaded model."""
    command = ["benchmarks/engine_runs.py", json.dumps(cases), *flags]
    problem = None
    try:
        lines = bench.lines(command)
    except Failed as exc:
        if not exc.lines:
            raise
        lines, problem = exc.lines, str(exc)
    start, *measured = lines
    if problem is not None:  # the cases before it count
        measured.append({"error": problem})
    bench.failed |= any("error" in case for case in measured)
    text = spelled(["benchmarks/engine_runs.py", f"'{json.dumps(cases)}'", *flags], bench.folder)
    kept = [{k: v for k, v in case.items() if k != "workload"} for case in measured]
    return {"command": text, **start, "cases": kept}


def _batch(bench: Bench, plan: Plan, flags: Sequence[str]) -> Result:
    """`paceline batch`, with proof that every request got all its tokens."""
    out = bench.folder / "out.jsonl"
    command = [*PACELINE, "batch", plan.scale.workload, str(out), "--warmup"]
    command += ["--repeat", str(plan.rounds), *flags]
    summary = bench.lines(command)[-1]
    asked = [json.loads(line)["max_tokens"] for line in (ROOT / plan.scale.workload).open()]
    got = [json.loads(line).get("completion_tokens", 0) for line in out.open()]
    kept: dict[str, Any] = {key: summary[key] for key in _KEPT}
    return {"command": spelled(command, bench.folder), **kept, "exact": got == asked}


def _served_file(bench: Bench, plan: Plan, shape: str) -> Result:
    flags = plan.flags(shape, plan.scale.context)
    # Later passes have the prompts of the first one, and must read them all the same.
    flags += ["--no-prefix-cache", *_frontends(plan.frontends[0])]
    # The first pass warms up what the server meets for the first time.
    found = _served(bench, flags, ["--workload", plan.scale.workload], plan.rounds + 1)
    passes = found.pop("levels")[1:]
    rates = sorted(each["output_tokens_per_s"] for each in passes)
    exact = all(each["exact"] for each in passes)
    return found | {"passes": passes, "output_tokens_per_s": rates[len(rates) // 2], "exact": exact}


def _served(bench: Bench, flags: Sequence[str], options: Sequence[str], times: int = 1) -> Result:
    """The load driver against a server of its own. `levels` are the driver's lines."""
    serve = [*PACELINE, "serve", "--port", "0", "--metrics-port", "none", "--log-level", "warning"]
    serve += flags
    with bench.process(serve) as server:
        banner = bench.first_line(server)
        found = re.search(r" on (\S+:\d+)", banner)
        if found is None:
            raise Failed(f"the server's first line has no address: {banner}")
        load = ["benchmarks/streams.py", "--target", found[1], "--server-pid", str(server.pid)]
        levels = [line for _ in range(times) for line in bench.lines([*load, *options])]
    shown = ["benchmarks/streams.py", *options]
    return {
        "command": spelled(serve, bench.folder),
        "driver": spelled(shown, bench.folder),
        "levels": levels,
    }


def _frontends(count: str) -> list[str]:
    return [] if count == "auto" else ["--frontends", count]

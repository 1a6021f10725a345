"""Our engine beside transformers' padded batches, offline and served, in one run on one machine.

    python benchmarks/cpu.py WORKLOAD.jsonl [--rows 32] [--rounds 3] [--peer openvino] [--out FILE.json]

Each round runs every system once, in turn, each in a process of its own: `paceline baseline` with
left-padded batches of ROWS in the file's order, `paceline batch` in three modes and in two orders, and
`paceline serve` under ROWS concurrent streams from Locust. Loading and warm-up are not timed. Prints a
Markdown table of medians and ratios; `--out` keeps every run.

With `--peer openvino` it measures `paceline batch` beside OpenVINO GenAI instead, each round in turn, in float32 (with
`--bf16` in bfloat16) and int8, at 32 and 8 rows and as one stream, and notes how busy the machine was before each run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from paceline.loadgen.command import command_line
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.recorder import read_requests
from paceline.loadgen.statistics import summarise_level

PACELINE = [sys.executable, "-m", "paceline.client.cli"]
SERVED_S = 25.0
RUNS = (
    ("static", "given"),
    ("dynamic", "given"),
    ("continuous", "given"),
    ("dynamic", "longest-first"),
    ("continuous", "longest-first"),
)
Run = dict[str, Any]


def baseline(workload: Path, rows: int) -> Run:
    command = ["baseline", str(workload), "--batch-sizes", str(rows), "--no-one-by-one"]
    run = _json_of([*PACELINE, *command])
    return {"tok_s": run["output_tokens"] / run["wall_s"], "padding_waste": run["padding_waste"]}


def offline(workload: Path, rows: int, mode: str, order: str) -> Run:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
        command = ["batch", str(workload), out.name, "--warmup", "--mode", mode, "--order", order]
        run = _json_of([*PACELINE, *command, "--max-batch-size", str(rows)])
    kept = ("padding_waste", "steps", "mean_rows", "peak_rss_mib", "load_s")
    return {"tok_s": run["output_tokens_per_s"], **{key: run[key] for key in kept}}


def served(workload: Path, rows: int) -> Run:
    """Output tokens a second in the steady window of `rows` streams. No prompt is served from a cache."""
    serve = [
        "serve",
        "--port",
        "0",
        "--metrics-port",
        "none",
        "--no-prefix-cache",
        "--log-level",
        "warning",
    ]
    started = time.perf_counter()
    server = subprocess.Popen(
        [*PACELINE, *serve, "--max-batch-size", str(rows)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split(" on ")[1].split()[0]
        ready_s = time.perf_counter() - started
        with tempfile.TemporaryDirectory() as folder:
            options = LoadOptions(
                target=address,
                workload=str(workload),
                concurrency=(rows,),
                level_min_s=SERVED_S,
                level_max_s=SERVED_S,
                out=f"{folder}/records",
            )
            subprocess.run(command_line(options), check=True, capture_output=True, cwd=folder)
            _, records = read_requests(Path(folder) / "records")
        level = summarise_level(records, rows)
        status = Path(f"/proc/{server.pid}/status")
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    finally:
        server.terminate()
        server.wait(30)
    return {
        "tok_s": level["throughput"]["output_tok_s"],
        "window": level["stable"]["verdict"],
        "peak_rss_mib": int(peak.split()[1]) / 1024,
        "ready_s": ready_s,
    }


def systems(workload: Path, rows: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"transformers, padded batches of {rows}": lambda: baseline(workload, rows)
    }
    for mode, order in RUNS:
        found[f"paceline batch, {mode}, {order}"] = lambda m=mode, o=order: offline(
            workload, rows, m, o
        )
    found[f"paceline serve, continuous, {rows} streams"] = lambda: served(workload, rows)
    return found


def peer_cases(workload: Path, precisions: tuple[str, ...]) -> dict[str, tuple[Any, Any, str]]:
    """By case: ours, OpenVINO's, and the figure that is compared."""
    ours_of = {
        "fp32": ["--dtype", "float32"],
        "bf16": ["--dtype", "bfloat16"],
        "int8": ["--quantization", "int8"],
    }
    here = Path(__file__).parent

    def ours(precision: str, rows: int) -> Run:
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
            command = ["batch", str(workload), out.name, "--warmup", "--max-batch-size", str(rows)]
            run = _json_of([*PACELINE, *command, *ours_of[precision]])
        return run | {"tok_s": run["output_tokens_per_s"]}

    def our_stream(precision: str) -> Run:
        return _json_of([sys.executable, f"{here}/single.py", str(workload), *ours_of[precision]])

    def theirs(precision: str, *more: str) -> Run:
        script = f"{here}/peers/openvino_genai.py"
        return _json_of([sys.executable, script, str(workload), "--precision", precision, *more])

    cases: dict[str, tuple[Any, Any, str]] = {}
    for p in precisions:
        for rows in (32, 8):
            cases[f"{p}, {rows} rows"] = (
                lambda p=p, rows=rows: ours(p, rows),
                lambda p=p, rows=rows: theirs(p, "--rows", str(rows)),
                "tok_s",
            )
        cases[f"{p}, one stream"] = (
            lambda p=p: our_stream(p),
            lambda p=p: theirs(p, "--single"),
            "tpot_ms",
        )
    return cases


def beside_peer(workload: Path, rounds: int, precisions: tuple[str, ...]) -> dict[str, Any]:
    """Every case in every round, ours and theirs in turn; the one that begins changes with the round."""
    runs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    cases = peer_cases(workload, precisions)
    for number in range(rounds):
        for name, (ours, theirs, key) in cases.items():
            pair: dict[str, Any] = {}
            for who, measure in (("ours", ours), ("openvino", theirs))[:: 1 if number % 2 else -1]:
                load = os.getloadavg()[0]
                pair[who] = measure() | {"load_before": load}
            pair["ratio"] = pair["ours"][key] / pair["openvino"][key]
            runs[name].append(pair)
            sys.stderr.write(f"round {number + 1}: {name}: {key} ratio {pair['ratio']:.2f}\n")
    lines = ["| case | figure | ours | OpenVINO | ratio | range |", "|---|---|---:|---:|---:|---:|"]
    for name, found in runs.items():
        key = cases[name][2]
        middle = [
            statistics.median(pair[who][key] for pair in found) for who in ("ours", "openvino")
        ]
        ratios = [pair["ratio"] for pair in found]
        lines.append(
            f"| {name} | {key} | {middle[0]:.1f} | {middle[1]:.1f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f}-{max(ratios):.2f} |"
        )
    print("\n".join(lines))  # noqa: T201
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", type=Path)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", choices=("openvino",))
    parser.add_argument("--bf16", action="store_true", help="bfloat16 in place of float32")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.peer:
        precisions = ("bf16" if arguments.bf16 else "fp32", "int8")
        found = beside_peer(arguments.workload.resolve(), arguments.rounds, precisions)
        if arguments.out:
            result = {"machine": _machine(), "command": sys.argv[1:], "runs": found}
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        return
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    for number in range(arguments.rounds):
        for name, measure in systems(arguments.workload.resolve(), arguments.rows).items():
            runs[name].append(measure())
            rate = runs[name][-1]["tok_s"]
            sys.stderr.write(f"round {number + 1}: {name}: {rate:.0f} tok/s\n")
    print(_table(runs))  # noqa: T201
    if arguments.out:
        result = {"machine": _machine(), "command": sys.argv[1:], "runs": runs}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _table(runs: dict[str, list[Run]]) -> str:
    """Medians, and ratios to the first system taken round by round."""
    reference = next(iter(runs.values()))
    lines = ["| system | output tok/s | range | ratio | padding |", "|---|---:|---:|---:|---:|"]
    for name, found in runs.items():
        rates = [run["tok_s"] for run in found]
        ratio = statistics.median(
            run["tok_s"] / base["tok_s"] for run, base in zip(found, reference, strict=True)
        )
        waste = found[0].get("padding_waste")
        padding = "" if waste is None else f"{waste:.0%}"
        middle = statistics.median(rates)
        lines.append(
            f"| {name} | {middle:.0f} | {min(rates):.0f}-{max(rates):.0f} | {ratio:.2f} | {padding} |"
        )
    return "\n".join(lines)


def _machine() -> dict[str, Any]:
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    packages = ("torch", "transformers", "grpcio", "locust")
    return {
        "cpu": cpu,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        **{name: version(name) for name in packages},
    }


def _json_of(command: list[str]) -> Run:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    run: Run = json.loads(done.stdout.splitlines()[-1])
    return run


if __name__ == "__main__":
    main()

"""Our engine beside transformers' padded batches, offline and served, in one run on one machine.

    python benchmarks/cpu.py WORKLOAD.jsonl [--rows 32] [--rounds 3] [--out FILE.json]

Each round runs every system once, in turn, each in a process of its own: `paceline baseline` with
left-padded batches of ROWS in the file's order, `paceline batch` in three modes and in two orders, and
`paceline serve` under ROWS concurrent streams from Locust. Loading and warm-up are not timed. Prints a
Markdown table of medians and ratios; `--out` keeps every run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from commands import PACELINE, Run, json_of
from environment import machine
from paceline.loadgen.command import command_line
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.recorder import read_requests
from paceline.loadgen.statistics import summarise_level

SERVED_S = 25.0
RUNS = (
    ("static", "given"),
    ("dynamic", "given"),
    ("continuous", "given"),
    ("dynamic", "longest-first"),
    ("continuous", "longest-first"),
)


def baseline(workload: Path, rows: int) -> Run:
    command = ["baseline", str(workload), "--batch-sizes", str(rows), "--no-one-by-one"]
    run = json_of([*PACELINE, *command])
    return {"tok_s": run["output_tokens"] / run["wall_s"], "padding_waste": run["padding_waste"]}


def offline(workload: Path, rows: int, mode: str, order: str) -> Run:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
        command = ["batch", str(workload), out.name, "--warmup", "--mode", mode, "--order", order]
        run = json_of([*PACELINE, *command, "--max-batch-size", str(rows)])
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", type=Path)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    for number in range(arguments.rounds):
        for name, measure in systems(arguments.workload.resolve(), arguments.rows).items():
            runs[name].append(measure())
            rate = runs[name][-1]["tok_s"]
            sys.stderr.write(f"round {number + 1}: {name}: {rate:.0f} tok/s\n")
    print(_table(runs))  # noqa: T201
    if arguments.out:
        result = {"machine": machine(), "command": sys.argv[1:], "runs": runs}
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


if __name__ == "__main__":
    main()

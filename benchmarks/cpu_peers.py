"""Our engine beside OpenVINO GenAI on a CPU: the same file, the same precision, in one run on one machine.

    python benchmarks/cpu_peers.py WORKLOAD.jsonl [--precisions fp32,int8] [--rounds 3] [--out FILE.json]

Each round runs every case once, ours and theirs in turn, each in a process of its own: the file with at most ROWS rows,
after a pass that is not counted, and one stream alone. Who begins changes with the round. How busy the machine was
before each run is noted. Prints a Markdown table of medians, and of ratios taken pair by pair.

Where their models cannot be converted, `--peer-models` names a folder with converted ones, which are then run by this
Python; `--dummy-weights` gives ours random weights of the same shape: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from commands import PACELINE, Run, json_of
from environment import machine

HERE = Path(__file__).parent
OURS = {
    "fp32": ["--dtype", "float32"],
    "bf16": ["--dtype", "bfloat16"],
    "int8": ["--quantization", "int8"],
}


@dataclass(frozen=True, slots=True)
class Case:
    """What two systems do side by side, and the figure of theirs that is compared."""

    name: str
    ours: Callable[[], Run]
    theirs: Callable[[], Run]
    key: str


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    workload = str(arguments.workload.resolve())
    model = ["--dummy-weights", arguments.dummy_weights] if arguments.dummy_weights else []

    def ours(precision: str, rows: str) -> Run:
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
            command = ["batch", workload, out.name, "--warmup", "--max-batch-size", rows]
            command += ["--repeat", str(arguments.repeat), "--device", "cpu", *model]
            run = json_of([*PACELINE, *command, *OURS[precision]])
        return run | {"tok_s": run["output_tokens_per_s"]}

    def our_stream(precision: str) -> Run:
        command = [f"{HERE}/single.py", workload, "--device", "cpu", *model, *OURS[precision]]
        return json_of([sys.executable, *command])

    def theirs(precision: str, *more: str) -> Run:
        command = [f"{HERE}/peers/openvino_genai.py", workload, "--precision", precision, *more]
        command += ["--repeat", str(arguments.repeat)]
        if arguments.peer_models:
            weights = "int8" if precision == "int8" else "fp32"
            command += ["--folder", str(next(arguments.peer_models.glob(f"*-{weights}")))]
        # -P: their script bears the name of the module that it imports.
        return json_of([sys.executable, "-P", *command])

    for p in arguments.precisions.split(","):
        for rows in [] if arguments.rows == "none" else arguments.rows.split(","):
            yield Case(
                f"{p}, {rows} rows",
                partial(ours, p, rows),
                partial(theirs, p, "--rows", rows),
                "tok_s",
            )
        yield Case(
            f"{p}, one stream",
            partial(our_stream, p),
            partial(theirs, p, "--single"),
            "tpot_ms",
        )


def measure(case: Case, *, ours_first: bool) -> dict[str, Any]:
    pair: dict[str, Any] = {}
    systems = [("ours", case.ours), ("openvino", case.theirs)]
    for who, run in systems if ours_first else reversed(systems):
        load = os.getloadavg()[0]
        pair[who] = run() | {"load_before": load}
    pair["ratio"] = pair["ours"][case.key] / pair["openvino"][case.key]
    return pair


def table(runs: dict[str, list[dict[str, Any]]], keys: dict[str, str]) -> str:
    """Medians, and ratios pair by pair. Of TPOT less is better, of tokens a second more."""
    lines = ["| case | figure | ours | OpenVINO | ratio | range |", "|---|---|---:|---:|---:|---:|"]
    for name, found in runs.items():
        key = keys[name]
        ours, theirs = (
            statistics.median(pair[who][key] for pair in found) for who in ("ours", "openvino")
        )
        ratios = [pair["ratio"] for pair in found]
        lines.append(
            f"| {name} | {key} | {ours:.1f} | {theirs:.1f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f}-{max(ratios):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", type=Path)
    parser.add_argument("--precisions", default="fp32,int8", help="of fp32, bf16, int8")
    parser.add_argument("--rows", default="32,8", help="of files; none: one stream alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1, help="counted passes of each run")
    parser.add_argument("--dummy-weights", help="shape of ours, in place of the embedded model")
    parser.add_argument("--peer-models", type=Path, help="folder of converted models")
    parser.add_argument("--cpus", help="processors to use, for example 0,1")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.cpus:
        os.sched_setaffinity(0, [int(cpu) for cpu in arguments.cpus.split(",")])
    runs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    found = list(cases(arguments))
    for number in range(arguments.rounds):
        for case in found:
            pair = measure(case, ours_first=number % 2 == 1)
            runs[case.name].append(pair)
            sys.stderr.write(f"round {number + 1}: {case.name}: {case.key} {pair['ratio']:.2f}\n")
            if arguments.out:  # what is done counts, whoever ends the run
                result = {"machine": machine(), "command": sys.argv[1:], "runs": runs}
                arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(runs, {case.name: case.key for case in found}))  # noqa: T201


if __name__ == "__main__":
    main()

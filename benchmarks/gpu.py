"""Everything that docs/performance.md says of GPUs, measured in one call on one machine.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json
    python benchmarks/gpu.py --parts offline,steps --shapes llama-8b --out benchmarks/results/gpu.json
    python benchmarks/gpu.py --smoke

Each measurement is a command of its own, which the file records. The file is written after every one, so that whoever
ends the run early keeps what is done; a later call with other parts adds to the same file. What would not end within
the budget is left out, and the file says so. Models have random weights of a published shape: nothing is downloaded.

Parts:

- ladder: transformers' three ways, then ours, one step of the design after the other. Requests in the file's order.
- offline: the file through `paceline batch` as it comes, longest first.
- steps: the time of a decode step with 1 to 256 rows.
- growth: the same with more rows, and with longer contexts.
- streams: gRPC streams against `paceline serve`, closed loop.
- profile: kernels, and calls by which the host waits.
- deterministic: what `--deterministic` costs, and whether it holds.
- fp8: a large model's file and steps with weights in fp8.

And of a host with several GPUs, where they are asked for by name:

- replicas: one engine behind the port, and one for each GPU.
- tensor-parallel: a model spread over all GPUs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

import gpu_parts
from gpu_scale import Scale, smoke
from measuring import Bench
from tables import tables

SHAPES = ("smollm2-135m", "llama-8b")
ALL = gpu_parts.PARTS | gpu_parts.SEVERAL


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 if a measurement failed."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    shapes, scale = arguments.shapes.split(","), Scale(gpus=torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            model, scale = smoke(Path(folder))
            shapes = [model]
        bench = Bench(arguments.out, arguments.budget_s, Path(folder), missing=arguments.missing)
        plan = gpu_parts.Plan(scale, arguments.rounds, tuple(arguments.frontends.split(",")))
        bench.environment(scale.copy_mib, scale.matmul_size)
        for part in arguments.parts.split(","):
            for shape in gpu_parts.shapes_of(part, shapes):
                ALL[part](bench, plan, shape)
    print(tables(bench.results))  # noqa: T201
    return int(bench.failed)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ",".join(gpu_parts.PARTS)
    parser.add_argument("--parts", default=parts, help=f"default: {parts}")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="models of random weights")
    parser.add_argument("--rounds", type=int, default=3, help="passes whose median is taken")
    parser.add_argument("--frontends", default="auto", help="values of --frontends for streams")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds in all")
    parser.add_argument("--out", type=Path, help="JSON file; a call adds to what is in it")
    parser.add_argument("--missing", action="store_true", help="only what the file lacks")
    parser.add_argument("--smoke", action="store_true", help="everything tiny, on the CPU")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.parts.split(",")) - set(ALL):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {','.join(ALL)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())

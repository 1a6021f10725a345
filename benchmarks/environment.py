"""What a machine is and what it can do, as one JSON line.

    python benchmarks/environment.py [--mib 2048] [--size 8192]

Copy bandwidth counts bytes read and bytes written: the median over copies of so many MiB. The rate of matrix products
is the median over bfloat16 products of SIZE x SIZE matrices.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    *("torch", "triton", "transformers", "openvino", "openvino-genai"),
    *("grpcio", "protobuf", "msgspec", "pyzmq", "numpy", "locust"),
)
_TIMES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--size", type=int, default=8192)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = machine() | {
        "copy_gb_s": copy_bandwidth(device, arguments.mib) / 1e9,
        "copy_mib": arguments.mib,
        "matmul_tflop_s": matmul_rate(device, arguments.size) / 1e12,
        "matmul_size": arguments.size,
    }
    print(json.dumps(found))  # noqa: T201


def machine() -> dict[str, Any]:
    """Names and versions. Nothing is measured."""
    gpu = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "gpus": torch.cuda.device_count(),
        "driver": _driver() if gpu else None,
        "cuda": torch.version.cuda,
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d"),
    }


def copy_bandwidth(device: torch.device, mib: int) -> float:
    """Bytes a second, read and written, of copies from one place on the device to another."""
    source = torch.ones(mib << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source), device)


def matmul_rate(device: torch.device, size: int) -> float:
    """Operations a second of bfloat16 matrix products; the input is random, which costs more power than zeros."""
    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    right = torch.randn_like(left)
    return 2 * size**3 / _seconds(lambda: torch.mm(left, right), device)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median duration of a call, by the device's own clock where it has one."""
    times = []
    for number in range(_TIMES + 3):
        if device.type == "cuda":
            begin, end = _event(), _event()
            begin.record()
            call()
            end.record()
            end.synchronize()
            taken: float = begin.elapsed_time(end) / 1e3
        else:
            started = time.perf_counter()
            call()
            taken = time.perf_counter() - started
        if number >= 3:
            times.append(taken)
    return statistics.median(times)


def _event() -> Any:
    event: Any = torch.cuda.Event
    return event(enable_timing=True)


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0].strip()


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()

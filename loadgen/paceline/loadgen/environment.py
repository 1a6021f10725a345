"""What a run ran on: machine, versions, state of the sources."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "paceline",
    "torch",
    "transformers",
    "tokenizers",
    "grpcio",
    "protobuf",
    "locust",
    "gevent",
)
CUDA_QUERY = "name,driver_version,memory.total,power.limit"


def environment() -> dict[str, Any]:
    """Names and values, JSON-ready; what cannot be found out is left out."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "gpus": _lines("nvidia-smi", f"--query-gpu={CUDA_QUERY}", "--format=csv,noheader"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _commit(),
        "placement": "load generator and server share this machine",
    }
    return {name: value for name, value in found.items() if value}


def _versions() -> dict[str, str]:
    return {name: known for name in PACKAGES if (known := _version(name))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The commit of the sources this package was imported from, `+changes` when they differ from it."""
    here = str(Path(__file__).parent)
    head = _lines("git", "-C", here, "rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    changes = _lines("git", "-C", here, "status", "--porcelain", "--untracked-files=no", ".")
    return f"{head[0]}{'+changes' if changes else ''}"


def _lines(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()

"""How many front ends a server gets where its settings do not say. Loads no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..config import ServeConfig

_MOST = 8
_GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))  # of NVIDIA's driver and of AMD's


def count_frontends(config: ServeConfig) -> int:
    """0: one process does all, for a CPU computes and serves with the same cores."""
    if config.frontends is not None:
        return config.frontends
    if not _on_gpu(config.device) or not sys.platform.startswith("linux"):
        return 0
    # The engine and its libraries keep about half of the cores busy.
    return min(_MOST, max(1, len(os.sched_getaffinity(0)) // 2 - 1))


def _on_gpu(device: str) -> bool:
    if device != "auto":
        return device.startswith("cuda")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and any(path.exists() for path in _GPUS)

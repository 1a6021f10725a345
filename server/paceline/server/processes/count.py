"""How many front ends a server gets where its settings do not say. Loads no torch."""

from __future__ import annotations

import os
import sys

from ..config import ServeConfig
from ..devices import on_gpu, under_torchrun

_MOST = 8


def count_frontends(config: ServeConfig) -> int:
    """0: one process does all, for a CPU computes and serves with the same cores. Several engines need one at least."""
    return max(_count(config), 1 if config.replicas > 1 else 0)


def _count(config: ServeConfig) -> int:
    if config.frontends is not None:
        return config.frontends
    if not sys.platform.startswith("linux") or under_torchrun():
        return 0
    if not on_gpu(config.device):
        return int(config.tensor_parallel > 1)  # whoever restarts a group of ranks is none of them
    # The engine and its libraries keep about half of the cores busy.
    return min(_MOST, max(1, len(os.sched_getaffinity(0)) // 2 - 1))

"""How many front ends a server gets, and which numbers of processes exclude each other. Loads no torch."""

from __future__ import annotations

import os
import sys

from ..config import ServeConfig
from ..devices import on_gpu, under_torchrun
from ..errors import SetupError

_MOST = 8


def check(config: ServeConfig) -> None:
    """Refuses what does not go together with ranks of a model. SetupError with one line."""
    if config.tensor_parallel == 1:
        return
    if config.replicas > 1:
        raise SetupError(
            f"--tensor-parallel {config.tensor_parallel} and --replicas {config.replicas} exclude each other; "
            "start several servers"
        )
    if config.frontends and under_torchrun():
        raise SetupError(
            f"--frontends {config.frontends}: under torchrun rank 0 is one process, which does all"
        )


def count_frontends(config: ServeConfig) -> int:
    """0: one process does all, for a CPU computes and serves with the same cores. Several engines need one at least.

    SetupError as `check`.
    """
    check(config)
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

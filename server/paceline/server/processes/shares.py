"""What each of several engines gets of the machine: a GPU of its own, or a share of the processors. Loads no torch."""

from __future__ import annotations

import os
from pathlib import Path

from .. import cores
from ..config import ServeConfig
from ..devices import on_gpu
from ..errors import SetupError


def config_of(replica: int, config: ServeConfig) -> ServeConfig:
    """The settings of an engine, by its number from 0 on. SetupError if they name a GPU for all of them.

    A number of threads that was asked for is each one's.
    """
    if config.replicas == 1:
        return config
    changed: dict[str, object] = {}
    if on_gpu(config.device):
        if ":" in config.device:
            raise SetupError(
                f"--device {config.device} is one GPU, and --replicas {config.replicas} takes the first "
                f"{config.replicas}: --device cuda, and CUDA_VISIBLE_DEVICES to choose them"
            )
        changed["device"] = f"cuda:{replica}"
    if config.num_threads is None and not os.environ.get("OMP_NUM_THREADS"):
        found = cores.usable() or os.cpu_count() or 1
        changed["num_threads"] = max(1, found // config.replicas)
    return config.model_copy(update=changed)


def folder_of(replica: int, config: ServeConfig, folder: Path) -> Path:
    """Where an engine's sockets, tokenizer and flight records are: apart, so that no names meet."""
    return folder if config.replicas == 1 else folder / str(replica)

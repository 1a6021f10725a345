"""Whether there is a GPU or a torchrun, found out without torch: what is decided before a model is loaded."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))  # NVIDIA's and AMD's


def on_gpu(device: str) -> bool:
    """Whether the setting `device` will most likely mean CUDA or ROCm here."""
    if device != "auto":
        return device.startswith("cuda")
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    if any(os.environ.get(name, "all") in ("", "-1") for name in names):
        return False
    return any(path.exists() for path in _DRIVERS) and not _torch_is_for_cpus()


def under_torchrun() -> bool:
    """Whether torchrun started this process, as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def torchrun_rank() -> int:
    """This process's number among those of torchrun; 0 without it."""
    return int(os.environ["RANK"]) if under_torchrun() else 0


def _torch_is_for_cpus() -> bool:
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False

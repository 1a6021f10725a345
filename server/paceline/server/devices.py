"""Whether there is a GPU, found out without torch: what is decided before a model is loaded."""

from __future__ import annotations

import os
from pathlib import Path

_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))  # NVIDIA's and AMD's


def on_gpu(device: str) -> bool:
    """Whether the setting `device` will most likely mean CUDA or ROCm here."""
    if device != "auto":
        return device.startswith("cuda")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and any(path.exists() for path in _DRIVERS)

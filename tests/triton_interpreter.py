"""Runs Triton's kernels on CPU tensors: import this before anything that imports Triton."""

from __future__ import annotations

import os
import sys

import torch

if torch.cuda.is_available():
    DEVICE = torch.device("cuda")  # the kernels themselves
else:
    DEVICE = torch.device("cpu")
    # Read when a kernel is decorated, thus too late for kernels that were imported before.
    os.environ["TRITON_INTERPRET"] = "1"
    early = [name for name in sys.modules if name.startswith("paceline.server.runner.triton_")]
    if early and "triton_interpreter_was_first" not in sys.modules:
        raise ImportError(f"imported before Triton's interpreter was chosen: {early}")
    sys.modules["triton_interpreter_was_first"] = sys.modules[__name__]

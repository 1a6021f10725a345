"""Kernels that begin while the one in front of them ends: programmatic dependent launch, from Hopper on.

A step of few rows is hundreds of kernels of microseconds, each of which would begin on an idle GPU. What is launched
early has its programs in place when the rows come, and weights in registers where K is one block. Before
`await_previous` a kernel must not write, nor read what the kernel in front writes; whatever lies before that one is
done. All programs of a kernel that is launched early call it, and only behind it may the next kernel begin: none
overtakes by more than one.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

# With more rows kernels fill the GPU, and programs that wait are in the way of others.
MOST_ROWS = 64


_allowed = True


def allow(wanted: bool) -> None:
    """Whether this process's kernels are launched early where the GPU can."""
    global _allowed
    _allowed = wanted


def early_options(rows: int) -> dict[str, Any]:
    """Options of a launch on so many rows, for a kernel that takes EARLY."""
    if rows <= MOST_ROWS and _allowed and can():
        return {"EARLY": True, "launch_pdl": True}
    return {"EARLY": False}


@cache
def can() -> bool:
    """Whether the GPU at hand launches early."""
    if os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available():
        return False
    return torch.version.cuda is not None and torch.cuda.get_device_capability() >= (9, 0)


@triton.jit
def await_previous(EARLY: tl.constexpr):
    """Waits until the kernel in front has ended and all it wrote can be read; then the next one may begin."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

"""What the machine offers: device, number format, CPU threads."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .. import cores
from ..errors import SetupError

# CPU features with which bfloat16 products are computed natively, on x86 and on ARM.
_BFLOAT16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16", "sve_bf16")


def pick_device(name: str) -> torch.device:
    """The device called `name`; auto: CUDA (or ROCm) if there is one, Apple's GPU, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device  # with its number, where it has one
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        reason = str(exc).splitlines()[0]
        raise SetupError(f"device {name!r} cannot be used here: {reason}") from exc


def pick_dtype(name: str, device: torch.device, quantization: str = "none") -> torch.dtype:
    """The format called `name`; auto: bfloat16 where the device computes in it, else float32.

    Beside int8 weights it is float32: processors multiply these with int8 activations made from float32 alone.
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if quantization == "int8":
        return torch.float32
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices natively, not by emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return _cpu_has_bfloat16()
    return False


def _cpu_has_bfloat16() -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # since torch 2.12
    if capabilities is not None:
        found = capabilities()
        return any(found.get(feature) for feature in _BFLOAT16_FEATURES)
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not words.isdisjoint(_BFLOAT16_FEATURES)


def pick_threads(requested: int | None) -> int:
    """CPU threads for torch: as requested, as OMP_NUM_THREADS says, else the physical cores we may use."""
    if requested is not None:
        return requested
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    return cores.usable() or torch.get_num_threads()

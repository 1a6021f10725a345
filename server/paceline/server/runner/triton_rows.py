"""What is done to rows on a GPU without a product: norm, gates, rounding to fp8. As `triton_linear`, for GPUs alone."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .linear_configs import power_of_two
from .scaled import FP8, LARGEST, LEAST
from .triton_early import early_options
from .triton_row_kernels import (
    GELU_TANH,
    OFFSET_NORM,
    PLAIN_NORM,
    SILU,
    gate_kernel,
    rms_norm_kernel,
    round_rows_kernel,
)

Activation = Literal["silu_mul", "gelu_tanh_mul"]

ACTIVATIONS = {None: 0, "silu_mul": SILU, "gelu_tanh_mul": GELU_TANH}
EMULATED = os.environ.get("TRITON_INTERPRET") == "1"
_GATE_BLOCK = 1024


class Launch(NamedTuple):
    """A kernel and all it is called with."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]

    def run(self) -> None:
        self.kernel[self.grid](*self.args, **self.options)

    def compile(self) -> None:
        """Compiles for the current device without running; tensors count by their dtype, so they may be meta."""
        args = [arg.dtype if isinstance(arg, Tensor) else arg for arg in self.args]
        self.kernel.warmup(*args, grid=self.grid, **self.options)


class Norm(NamedTuple):
    weight: Tensor
    eps: float
    offset: float

    @property
    def kind(self) -> int:
        return OFFSET_NORM if self.offset else PLAIN_NORM


def rms_norm(x: Tensor, norm_weight: Tensor, eps: float, *, norm_offset: float = 0.0) -> Tensor:
    """The norm alone, `[M, K]`."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        plan_norm(x, Norm(norm_weight, eps, norm_offset), out).run()
    return out


def plan_norm(x: Tensor, norm: Norm, out: Tensor) -> Launch:
    """The launch of the norm alone."""
    k = x.shape[1]
    args = (x, norm.weight, out, x.stride(0), norm.eps, norm.offset)
    options = {"K": k, "BLOCK": max(16, power_of_two(k, up=True)), "NORM": norm.kind}
    return Launch(rms_norm_kernel, (x.shape[0],), args, options | _how(x.shape[0]))


def round_rows(x: Tensor, norm: Norm | None = None) -> tuple[Tensor, Tensor]:
    """`x` `[M, K]`, normed if asked, in fp8, and each row's scale `[M, 1]` in float32."""
    m, k = x.shape
    out = torch.empty(x.shape, dtype=FP8, device=x.device)
    scale = torch.empty((m, 1), dtype=torch.float32, device=x.device)
    if out.numel():
        weight, eps, offset = norm or (None, 0.0, 0.0)
        args = (x, weight, out, scale, x.stride(0), eps, offset)
        sizes = {
            "LARGEST": LARGEST,
            "LEAST": LEAST,
            "K": k,
            "BLOCK": max(16, power_of_two(k, up=True)),
        }
        kind = {"NORM": norm.kind if norm else 0}
        Launch(round_rows_kernel, (m,), args, sizes | kind | _how(m)).run()
    return out, scale


def gated(gate_up: Tensor, activation: Activation) -> Tensor:
    """`act(gate) * up` of `[M, 2n]`, contiguous, with eager code's rounding."""
    m, n = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(m, n)
    if out.numel():
        grid = (-(-n // _GATE_BLOCK), m)
        sizes = {"N": n, "BLOCK": _GATE_BLOCK, "ACTIVATION": ACTIVATIONS[activation]}
        Launch(gate_kernel, grid, (gate_up, out), sizes | _how(m)).run()
    return out


def _how(rows: int) -> dict[str, Any]:
    return {"EMULATED": EMULATED} | early_options(rows)

"""Linear layers of a few rows on a GPU, with the norm before and the addition behind in the same kernel.

Meant for 1 to 64 rows, where a layer takes as long as its launch or as reading its weights; more rows work. A
row's result depends on that row and on the `Config` alone: a batch mate never changes it, nor does chance.
Calls with one config but different numbers of rows agree bit for bit where `block_m` agrees.

Everything can be captured in a CUDA graph after one call outside, which compiles the kernel and makes what
`split_k` counts with. Such calls must not run on two streams at once. Triton is imported here: import this
module only where there is a GPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .linear_configs import LARGE_BYTES, Config, Layer, Op, block_m, cut, pick, power_of_two
from .scaled import Scaled, Weight, multiply, values_of
from .triton_early import early_options
from .triton_linear_kernels import linear_kernel
from .triton_rows import (
    ACTIVATIONS,
    EMULATED,
    Activation,
    Launch,
    Norm,
    gated,
    rms_norm,
    round_rows,
)

_MAX_SHARED_TILES = 16384
_SQUARES = 8192  # elements of x that a program holds while it sums their squares


def norm_linear(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: Weight,
    bias: Tensor | None = None,
    *,
    activation: Activation | None = None,
    norm_offset: float = 0.0,
    config: Config | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`linear(rms_norm(x))`, rounded as transformers' LlamaRMSNorm rounds.

    With an activation, `weight` is gate and up in one, `[2n, K]`, and the result is `act(gate) * up`, `[M, n]`.
    `norm_offset=1.0` is Gemma's norm: `(1 + weight) * x`, rounded once. Weights may be read while the kernel in front
    still runs: none may be what that one writes.

    Args:
        x: `[M, K]`, rows contiguous; the other tensors have its dtype (fp8 weights apart) and are contiguous.
        config: how to compute; unset: the best guess for the shape.
        out: where the logits of an output matrix go, contiguous; not with an activation, a bias or fp8 weights.
    """
    op: Op = "norm_gated" if activation else "norm_linear" if out is None else "output"
    config = config or pick(_layer(op, weight), len(x))
    norm = Norm(norm_weight, eps, norm_offset)
    if config.kind != "torch":
        return _run(x, weight, bias, config, norm=norm, activation=activation, out=out)
    if isinstance(weight, Scaled):
        found = multiply(*round_rows(x, norm), weight, x.dtype, bias)
    else:
        normed = rms_norm(x, norm_weight, eps, norm_offset=norm_offset)
        if out is not None:
            return torch.mm(normed, weight.t(), out=out)
        found = F.linear(normed, weight, bias)
    return gated(found, activation) if activation else found


def linear_residual(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None,
    residual: Tensor,
    *,
    config: Config | None = None,
) -> Tensor:
    """`residual + linear(x)`, `[M, N]`; the product is rounded before the addition, as in eager code."""
    config = config or pick(_layer("linear_residual", weight), len(x))
    if config.kind == "torch":
        return residual + product(x, weight, bias)
    return _run(x, weight, bias, config, residual=residual)


def product(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` by torch's own product."""
    if isinstance(weight, Scaled):
        return multiply(*round_rows(x), weight, x.dtype, bias)
    return F.linear(x, weight, bias)


def plan(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None,
    out: Tensor,
    config: Config,
    *,
    row_scale: Tensor | None = None,
    norm: Norm | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Launch:
    """The launch that fills `out`; rows in fp8 have a `row_scale` each. ValueError for what the kernel does not do."""
    (m, k), n = x.shape, out.shape[1]
    _check(x, weight, bias, out, norm, residual)
    if activation and config.split_k > 1:
        raise ValueError("a layer with an activation cannot be split along K")
    height = block_m(m, config)
    least = 16 if row_scale is None else 32  # columns that tensor cores multiply at a time
    values, scale = weight if isinstance(weight, Scaled) else (weight, None)
    output_bytes = values.itemsize * (2 if activation else 1)
    way = cut(config, k, height * x.itemsize, output_bytes, _shared_bytes(x.device), least)
    grid = (-(-n // way.block_n), config.split_k, -(-m // height))
    partial = arrived = None
    if config.split_k > 1:
        size = (grid[0] * grid[2], config.split_k, height, way.block_n)
        partial = torch.empty(size, dtype=torch.float32, device=x.device)
        arrived = _arrived(x.device, grid[0] * grid[2])
    inputs = (x, row_scale, norm.weight if norm else None, values, scale, bias, residual)
    tensors = (*inputs, out, partial, arrived)
    numbers = (m, x.stride(0), norm.eps if norm else 0.0, norm.offset if norm else 0.0)
    options = {
        "N": n,
        "K": k,
        "NORM": norm.kind if norm else 0,
        "ACTIVATION": ACTIVATIONS[activation],
        "VEC": config.kind == "vec",
        "BLOCK_M": height,
        "BLOCK_N": way.block_n,
        "BLOCK_K": way.block_k,
        "TAIL": way.tail,
        "SQUARES": max(16, min(_SQUARES // height, 4096, power_of_two(k, up=True))),
        "SPLIT": config.split_k,
        "STAGES": way.stages,
        "EVICT": "evict_first" if values.numel() * values.itemsize >= LARGE_BYTES else "",
        "EMULATED": EMULATED,
        "num_warps": config.num_warps,
        "num_stages": way.stages,
    }
    return Launch(linear_kernel, grid, tensors + numbers, options | early_options(m))


def _layer(op: Op, weight: Weight) -> Layer:
    rows, k = values_of(weight).shape
    n = rows // 2 if op == "norm_gated" else rows
    return Layer(op, n, k, 1 if isinstance(weight, Scaled) else 2)


def _run(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None,
    config: Config,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    rows = len(values_of(weight))
    if out is None:
        n = rows // 2 if activation else rows
        out = torch.empty(x.shape[0], n, dtype=x.dtype, device=x.device)
    if out.numel():
        parts: dict[str, Any] = {"activation": activation, "residual": residual}
        if isinstance(weight, Scaled) and config.kind == "dot":  # fp8 meets fp8
            x, parts["row_scale"] = round_rows(x, norm)
        elif norm and not config.fuse_norm:
            x = rms_norm(x, norm.weight, norm.eps, norm_offset=norm.offset)
        else:
            parts["norm"] = norm
        plan(x, weight, bias, out, config, **parts).run()
    return out


def _check(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None,
    out: Tensor,
    norm: Norm | None,
    residual: Tensor | None,
) -> None:
    """The kernel takes addresses on trust, so nothing of another shape may reach it."""
    values = values_of(weight)
    rows, k = values.shape
    if x.shape[1] != k or x.stride(1) != 1 or not values.is_contiguous():
        raise ValueError(f"x {tuple(x.shape)} and weight {tuple(values.shape)} do not fit")
    if isinstance(weight, Scaled) and weight.scale.shape != (rows,):
        raise ValueError(f"{tuple(weight.scale.shape)} scales do not fit {rows} outputs")
    if norm and norm.weight.shape != (k,):
        raise ValueError(f"the norm has {norm.weight.numel()} weights for {k} columns")
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"bias {tuple(bias.shape)} does not fit {rows} outputs")
    if residual is not None and (residual.shape != out.shape or not residual.is_contiguous()):
        raise ValueError(
            f"residual {tuple(residual.shape)} is not like the output {tuple(out.shape)}"
        )
    others = [bias, residual, norm.weight if norm else None]
    others += [] if isinstance(weight, Scaled) else [weight]
    if any(other is not None and other.dtype != out.dtype for other in others):
        raise ValueError("x, weights, bias and residual must have one dtype")


@cache
def _shared_bytes(device: torch.device) -> int:
    """What a program can have of shared memory, less what reductions take."""
    if device.type != "cuda":
        return 1 << 30
    properties: Any = torch.cuda.get_device_properties(device)
    # AMD's have no more than the one figure.
    most = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    return int(most) - 4096


def _arrived(device: torch.device, tiles: int) -> Tensor:
    """How many shares of each tile are done: zeros between launches."""
    if tiles > _MAX_SHARED_TILES:
        raise ValueError(f"{tiles} tiles are too many to split along K")
    return _zeros(device)


@cache
def _zeros(device: torch.device) -> Tensor:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("call a linear layer with split_k once before you capture it")
    return torch.zeros(_MAX_SHARED_TILES, dtype=torch.int32, device=device)

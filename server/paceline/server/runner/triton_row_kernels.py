"""Triton kernels on rows alone: norm, gates, rounding to fp8; and what the products share with them."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_early import await_previous

PLAIN_NORM, OFFSET_NORM = 1, 2
SILU, GELU_TANH = 1, 2


@triton.jit
def rounded(x, DTYPE: tl.constexpr, EMULATED: tl.constexpr):
    """float32 to DTYPE, to nearest even; Triton's interpreter would cut bfloat16 off."""
    if EMULATED and DTYPE == tl.bfloat16:  # noqa: SIM300 - a constexpr compares from the left
        bits = x.to(tl.int32, bitcast=True)
        up = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, up, bits).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def load_tile(ptr, rows, stride, first, BLOCK: tl.constexpr, EVICT: tl.constexpr):
    """`[rows, BLOCK]` of a row-major matrix from column `first` on, which must not lie behind K."""
    where = ptr + rows.to(tl.int64)[:, None] * stride + (first + tl.arange(0, BLOCK))[None, :]
    return tl.load(where, eviction_policy=EVICT)


@triton.jit
def load_last_tile(
    ptr,
    rows,
    stride,
    FIRST: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    EVICT: tl.constexpr,
):
    """The same for the end of the rows, with zeros behind column K."""
    at = FIRST + tl.arange(0, BLOCK)
    where = ptr + rows.to(tl.int64)[:, None] * stride + at[None, :]
    if FIRST + BLOCK == K:
        tile = tl.load(where, eviction_policy=EVICT)
    else:
        tile = tl.load(where, mask=at[None, :] < K, other=0.0, eviction_policy=EVICT)
    return tile


@triton.jit
def normed(
    x,
    scale,
    norm_ptr,
    offset,
    first,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    EMULATED: tl.constexpr,
):
    """The tile as the model's norm leaves it: `weight * round(x * scale)`, or `(offset + weight) * x * scale`."""
    if NORM != 0:
        at = first + tl.arange(0, BLOCK)
        weight = tl.load(norm_ptr + tl.minimum(at, K - 1)).to(tl.float32)[None, :]
        h = x.to(tl.float32) * scale[:, None]
        if NORM == 1:
            h = weight * rounded(h, x.dtype, EMULATED).to(tl.float32)
        else:
            h = h * (weight + offset)
        x = rounded(h, x.dtype, EMULATED)
    return x


@triton.jit
def norm_scale(x, eps, K: tl.constexpr):
    """What a whole row `[1, K]` is multiplied by before the norm's weights."""
    return tl.rsqrt(tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=1) / K + eps)


@triton.jit
def activated(gate, up, ACTIVATION: tl.constexpr, DTYPE: tl.constexpr, EMULATED: tl.constexpr):
    """`act(gate) * up`, rounded where the model's own modules round. Both in float32 and so is the result."""
    gate = rounded(gate, DTYPE, EMULATED).to(tl.float32)
    up = rounded(up, DTYPE, EMULATED).to(tl.float32)
    if ACTIVATION == 1:
        gate = gate / (1.0 + tl.exp(-gate))
    else:  # x * (1 + tanh(u)) / 2 is x * sigmoid(2u)
        u = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = gate / (1.0 + tl.exp(-2.0 * u))
    return rounded(gate, DTYPE, EMULATED).to(tl.float32) * up


@triton.jit
def rms_norm_kernel(
    x_ptr, norm_ptr, out_ptr, stride_x, eps, offset,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, EMULATED: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """A program norms one row. Grid: rows."""
    await_previous(EARLY)
    row = tl.program_id(0) + tl.arange(0, 1)
    x = load_last_tile(x_ptr, row, stride_x, 0, K, BLOCK, "")
    scale = norm_scale(x, eps, K)
    at = tl.arange(0, BLOCK)[None, :]
    y = normed(x, scale, norm_ptr, offset, 0, K, BLOCK, NORM, EMULATED)
    tl.store(out_ptr + row.to(tl.int64)[:, None] * K + at, y, mask=at < K)


@triton.jit
def gate_kernel(
    gate_up_ptr, out_ptr, N: tl.constexpr, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr,
    EMULATED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """`act(gate) * up` of `[rows, 2N]`. Grid: blocks of columns, rows."""
    await_previous(EARLY)
    DTYPE: tl.constexpr = out_ptr.dtype.element_ty
    row = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up_ptr + row * 2 * N + at, mask=at < N, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * N + N + at, mask=at < N, other=0.0).to(tl.float32)
    y = activated(gate, up, ACTIVATION, DTYPE, EMULATED)
    tl.store(out_ptr + row * N + at, rounded(y, DTYPE, EMULATED), mask=at < N)


@triton.jit
def round_rows_kernel(
    x_ptr, norm_ptr, out_ptr, scale_ptr, stride_x, eps, offset,
    LARGEST: tl.constexpr, LEAST: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, EMULATED: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """A program norms one row, if asked to, and rounds it to fp8. Grid: rows.

    Its largest value becomes LARGEST; in a row of zeros LEAST stands for it.
    """
    await_previous(EARLY)
    row = tl.program_id(0) + tl.arange(0, 1)
    x = load_last_tile(x_ptr, row, stride_x, 0, K, BLOCK, "")
    if NORM != 0:
        x = normed(x, norm_scale(x, eps, K), norm_ptr, offset, 0, K, BLOCK, NORM, EMULATED)
    at = tl.arange(0, BLOCK)[None, :]
    x = tl.where(at < K, x.to(tl.float32), 0.0)
    scale = tl.maximum(tl.max(tl.abs(x), axis=1), LEAST) / LARGEST
    tl.store(scale_ptr + row, scale)
    x = x / scale[:, None]
    # The interpreter loses the carry where three bits round up to the next power of two.
    if EMULATED:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -1048576
        x = bits.to(tl.float32, bitcast=True)
    where = out_ptr + row.to(tl.int64)[:, None] * K + at
    tl.store(where, x.to(out_ptr.dtype.element_ty), mask=at < K)

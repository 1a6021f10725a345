"""Triton kernels of linear layers on few rows: the norm before them and the addition behind them included.

A program makes a tile of the output, all of K at once or a share of it. K and N are constants of the kernel, so
the loop along K needs no masks: what does not fill a block is a smaller block behind the loop. Rows and
columns beyond the edge are read from the last one and not stored. Sums are in float32, in an order that
depends on the block sizes alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

PLAIN_NORM, OFFSET_NORM = 1, 2
SILU, GELU_TANH = 1, 2


@triton.jit
def _rounded(x, DTYPE: tl.constexpr, EMULATED: tl.constexpr):
    """float32 to DTYPE, to nearest even; Triton's interpreter would cut bfloat16 off."""
    if EMULATED and DTYPE == tl.bfloat16:  # noqa: SIM300 - a constexpr compares from the left
        bits = x.to(tl.int32, bitcast=True)
        up = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, up, bits).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def _tile(ptr, rows, stride, first, BLOCK: tl.constexpr, EVICT: tl.constexpr):
    """`[rows, BLOCK]` of a row-major matrix from column `first` on, which must not lie behind K."""
    where = ptr + rows.to(tl.int64)[:, None] * stride + (first + tl.arange(0, BLOCK))[None, :]
    return tl.load(where, eviction_policy=EVICT)


@triton.jit
def _last_tile(
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
def _normed(
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
            h = weight * _rounded(h, x.dtype, EMULATED).to(tl.float32)
        else:
            h = h * (weight + offset)
        x = _rounded(h, x.dtype, EMULATED)
    return x


@triton.jit
def _add_product(acc, x, w, VEC: tl.constexpr, EMULATED: tl.constexpr):
    """`acc + x @ w.T`; where VEC, the products of the one row, which are summed after the loop."""
    if VEC:
        acc += x.to(tl.float32) * w.to(tl.float32)
    elif EMULATED:  # the interpreter multiplies the bits of bfloat16 as if they were integers
        acc = tl.dot(x.to(tl.float32), tl.trans(w.to(tl.float32)), acc, input_precision="ieee")
    else:
        acc = tl.dot(x, tl.trans(w.to(x.dtype)), acc, input_precision="ieee")
    return acc


@triton.jit
def _sum_of_squares(
    x_ptr, rows, stride, K: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr
):
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    for first in range(0, K // BLOCK * BLOCK, BLOCK):
        x = _tile(x_ptr, rows, stride, first, BLOCK, "").to(tl.float32)
        total += tl.sum(x * x, axis=1)
    if K % BLOCK != 0:
        x = _last_tile(x_ptr, rows, stride, K // BLOCK * BLOCK, K, BLOCK, "").to(tl.float32)
        total += tl.sum(x * x, axis=1)
    return total


@triton.jit
def _activated(gate, up, ACTIVATION: tl.constexpr, DTYPE: tl.constexpr, EMULATED: tl.constexpr):
    """`act(gate) * up`, rounded where the model's own modules round. Both in float32 and so is the result."""
    gate = _rounded(gate, DTYPE, EMULATED).to(tl.float32)
    up = _rounded(up, DTYPE, EMULATED).to(tl.float32)
    if ACTIVATION == 1:
        gate = gate / (1.0 + tl.exp(-gate))
    else:  # x * (1 + tanh(u)) / 2 is x * sigmoid(2u)
        u = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = gate / (1.0 + tl.exp(-2.0 * u))
    return _rounded(gate, DTYPE, EMULATED).to(tl.float32) * up


@triton.jit
def _finish(
    acc,
    acc_up,
    rows,
    cols,
    m,
    row_scale_ptr,
    scale_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    N: tl.constexpr,
    ACTIVATION: tl.constexpr,
    EMULATED: tl.constexpr,
):
    """Scales of rows and weights, bias, activation and residual; stores what lies inside `[m, N]`."""
    DTYPE: tl.constexpr = out_ptr.dtype.element_ty
    safe = tl.minimum(cols, N - 1)
    where = rows.to(tl.int64)[:, None] * N + cols[None, :]
    inside = (rows < m)[:, None] & (cols < N)[None, :]
    if row_scale_ptr is not None:
        row_scale = tl.load(row_scale_ptr + tl.minimum(rows, m - 1))[:, None]
        acc *= row_scale
        acc_up *= row_scale
    if scale_ptr is not None:
        acc *= tl.load(scale_ptr + safe)[None, :]
        if ACTIVATION != 0:
            acc_up *= tl.load(scale_ptr + N + safe)[None, :]
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + safe).to(tl.float32)[None, :]
        if ACTIVATION != 0:
            acc_up += tl.load(bias_ptr + N + safe).to(tl.float32)[None, :]
    if ACTIVATION != 0:
        acc = _activated(acc, acc_up, ACTIVATION, DTYPE, EMULATED)
    if residual_ptr is not None:
        product = _rounded(acc, DTYPE, EMULATED).to(tl.float32)
        acc = product + tl.load(residual_ptr + where, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + where, _rounded(acc, DTYPE, EMULATED), mask=inside)


@triton.jit(do_not_specialize=["m"])
def linear_kernel(
    x_ptr, row_scale_ptr, norm_ptr, weight_ptr, scale_ptr, bias_ptr, residual_ptr, out_ptr,
    partial_ptr, arrived_ptr, m, stride_x, eps, offset,
    N: tl.constexpr, K: tl.constexpr,
    NORM: tl.constexpr, ACTIVATION: tl.constexpr, VEC: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TAIL: tl.constexpr,
    SQUARES: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    EVICT: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """Grid: column tiles, shares of K, row tiles. TAIL is 0 where K is a multiple of BLOCK_K."""
    BLOCKS: tl.constexpr = K // BLOCK_K
    share = tl.program_id(1)
    rows = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    x_rows = tl.minimum(rows, m - 1)
    w_rows = tl.minimum(cols, N - 1)
    WIDTH: tl.constexpr = BLOCK_K if VEC else BLOCK_N
    HEIGHT: tl.constexpr = BLOCK_N if VEC else BLOCK_M
    acc = tl.zeros([HEIGHT, WIDTH], dtype=tl.float32)
    acc_up = acc
    scale = tl.zeros([BLOCK_M], dtype=tl.float32)

    if BLOCKS == 1 and SPLIT == 1:  # all loads are on their way before the norm is waited for
        x = _tile(x_ptr, x_rows, stride_x, 0, BLOCK_K, "")
        w = _tile(weight_ptr, w_rows, K, 0, BLOCK_K, EVICT)
        if ACTIVATION != 0:
            w_up = _tile(weight_ptr, w_rows + N, K, 0, BLOCK_K, EVICT)
        if TAIL != 0:
            x_tail = _last_tile(x_ptr, x_rows, stride_x, BLOCK_K, K, TAIL, "")
            w_tail = _last_tile(weight_ptr, w_rows, K, BLOCK_K, K, TAIL, EVICT)
            if ACTIVATION != 0:
                w_up_tail = _last_tile(weight_ptr, w_rows + N, K, BLOCK_K, K, TAIL, EVICT)
        if NORM != 0:
            total = tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=1)
            if TAIL != 0:
                total += tl.sum(x_tail.to(tl.float32) * x_tail.to(tl.float32), axis=1)
            scale = tl.rsqrt(total / K + eps)
        x = _normed(x, scale, norm_ptr, offset, 0, K, BLOCK_K, NORM, EMULATED)
        acc = _add_product(acc, x, w, VEC, EMULATED)
        if ACTIVATION != 0:
            acc_up = _add_product(acc_up, x, w_up, VEC, EMULATED)
    else:
        if NORM != 0:
            total = _sum_of_squares(x_ptr, x_rows, stride_x, K, SQUARES, BLOCK_M)
            scale = tl.rsqrt(total / K + eps)
        PER_SHARE: tl.constexpr = (BLOCKS + SPLIT - 1) // SPLIT
        begin = share * PER_SHARE
        end = tl.minimum(begin + PER_SHARE, BLOCKS)
        for block in tl.range(begin, end, num_stages=STAGES):
            first = block * BLOCK_K
            x = _tile(x_ptr, x_rows, stride_x, first, BLOCK_K, "")
            w = _tile(weight_ptr, w_rows, K, first, BLOCK_K, EVICT)
            x = _normed(x, scale, norm_ptr, offset, first, K, BLOCK_K, NORM, EMULATED)
            acc = _add_product(acc, x, w, VEC, EMULATED)
            if ACTIVATION != 0:
                w_up = _tile(weight_ptr, w_rows + N, K, first, BLOCK_K, EVICT)
                acc_up = _add_product(acc_up, x, w_up, VEC, EMULATED)
        if TAIL != 0:
            x_tail = _last_tile(x_ptr, x_rows, stride_x, BLOCKS * BLOCK_K, K, TAIL, "")
            w_tail = _last_tile(weight_ptr, w_rows, K, BLOCKS * BLOCK_K, K, TAIL, EVICT)
            if ACTIVATION != 0:
                w_up_tail = _last_tile(weight_ptr, w_rows + N, K, BLOCKS * BLOCK_K, K, TAIL, EVICT)

    if VEC:
        acc = tl.sum(acc, axis=1)[None, :]
        acc_up = tl.sum(acc_up, axis=1)[None, :]
    if TAIL != 0:
        x_tail = _normed(x_tail, scale, norm_ptr, offset, BLOCKS * BLOCK_K, K, TAIL, NORM, EMULATED)
        if SPLIT > 1:  # the tail belongs to the last share alone
            x_tail = tl.where(share == SPLIT - 1, x_tail, tl.zeros_like(x_tail))
        if VEC:
            x32 = x_tail.to(tl.float32)
            acc += tl.sum(x32 * w_tail.to(tl.float32), axis=1)[None, :]
            if ACTIVATION != 0:
                acc_up += tl.sum(x32 * w_up_tail.to(tl.float32), axis=1)[None, :]
        else:
            acc = _add_product(acc, x_tail, w_tail, VEC, EMULATED)
            if ACTIVATION != 0:
                acc_up = _add_product(acc_up, x_tail, w_up_tail, VEC, EMULATED)

    if SPLIT == 1:
        _finish(
            acc, acc_up, rows, cols, m, row_scale_ptr, scale_ptr, bias_ptr, residual_ptr, out_ptr,
            N, ACTIVATION, EMULATED,
        )  # fmt: skip
    else:  # whoever comes last adds the shares up, always in the same order
        tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
        inner = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        partial = partial_ptr + tile.to(tl.int64) * (SPLIT * BLOCK_M * BLOCK_N) + inner
        tl.store(partial + share * (BLOCK_M * BLOCK_N), acc, cache_modifier=".cg")
        tl.debug_barrier()  # all of this program's threads have stored before it says so
        if tl.atomic_add(arrived_ptr + tile, 1, sem="acq_rel") == SPLIT - 1:
            whole = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
            for each in range(SPLIT):
                whole += tl.load(partial + each * (BLOCK_M * BLOCK_N), cache_modifier=".cg")
            tl.store(arrived_ptr + tile, 0)
            _finish(
                whole, whole, rows, cols, m, row_scale_ptr, scale_ptr, bias_ptr, residual_ptr, out_ptr,
                N, 0, EMULATED,
            )  # fmt: skip


@triton.jit
def rms_norm_kernel(
    x_ptr, norm_ptr, out_ptr, stride_x, eps, offset,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """A program norms one row. Grid: rows."""
    row = tl.program_id(0) + tl.arange(0, 1)
    x = _last_tile(x_ptr, row, stride_x, 0, K, BLOCK, "")
    scale = tl.rsqrt(tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=1) / K + eps)
    at = tl.arange(0, BLOCK)[None, :]
    y = _normed(x, scale, norm_ptr, offset, 0, K, BLOCK, NORM, EMULATED)
    tl.store(out_ptr + row.to(tl.int64)[:, None] * K + at, y, mask=at < K)


@triton.jit
def gate_kernel(
    gate_up_ptr, out_ptr, N: tl.constexpr, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr,
    EMULATED: tl.constexpr,
):  # fmt: skip
    """`act(gate) * up` of `[rows, 2N]`. Grid: blocks of columns, rows."""
    DTYPE: tl.constexpr = out_ptr.dtype.element_ty
    row = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up_ptr + row * 2 * N + at, mask=at < N, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * N + N + at, mask=at < N, other=0.0).to(tl.float32)
    y = _activated(gate, up, ACTIVATION, DTYPE, EMULATED)
    tl.store(out_ptr + row * N + at, _rounded(y, DTYPE, EMULATED), mask=at < N)


@triton.jit
def round_rows_kernel(
    x_ptr, norm_ptr, out_ptr, scale_ptr, stride_x, eps, offset, LARGEST: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """A program norms one row, if asked to, and rounds it to fp8, its largest value to LARGEST. Grid: rows."""
    row = tl.program_id(0) + tl.arange(0, 1)
    x = _last_tile(x_ptr, row, stride_x, 0, K, BLOCK, "")
    if NORM != 0:
        norm = tl.rsqrt(tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=1) / K + eps)
        x = _normed(x, norm, norm_ptr, offset, 0, K, BLOCK, NORM, EMULATED)
    at = tl.arange(0, BLOCK)[None, :]
    x = tl.where(at < K, x.to(tl.float32), 0.0)
    scale = tl.maximum(tl.max(tl.abs(x), axis=1), 1e-12) / LARGEST
    tl.store(scale_ptr + row, scale)
    x = x / scale[:, None]
    if (
        EMULATED
    ):  # the interpreter loses the carry where three bits round up to the next power of two
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -1048576
        x = bits.to(tl.float32, bitcast=True)
    where = out_ptr + row.to(tl.int64)[:, None] * K + at
    tl.store(where, x.to(out_ptr.dtype.element_ty), mask=at < K)

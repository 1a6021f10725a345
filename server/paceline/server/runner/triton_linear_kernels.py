"""Triton kernels of linear layers on few rows: the norm before them and the addition behind them included.

A program makes a tile of the output, all of K at once or a share of it. K and N are constants of the kernel, so
the loop along K needs no masks: what does not fill a block is a smaller block behind the loop. Rows and
columns beyond the edge are read from the last one and not stored. Sums are in float32, in an order that
depends on the block sizes alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_early import await_previous
from .triton_row_kernels import activated, load_last_tile, load_tile, normed, rounded


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
        x = load_tile(x_ptr, rows, stride, first, BLOCK, "").to(tl.float32)
        total += tl.sum(x * x, axis=1)
    if K % BLOCK != 0:
        x = load_last_tile(x_ptr, rows, stride, K // BLOCK * BLOCK, K, BLOCK, "").to(tl.float32)
        total += tl.sum(x * x, axis=1)
    return total


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
        acc = activated(acc, acc_up, ACTIVATION, DTYPE, EMULATED)
    if residual_ptr is not None:
        product = rounded(acc, DTYPE, EMULATED).to(tl.float32)
        acc = product + tl.load(residual_ptr + where, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + where, rounded(acc, DTYPE, EMULATED), mask=inside)


@triton.jit(do_not_specialize=["m"])
def linear_kernel(
    x_ptr, row_scale_ptr, norm_ptr, weight_ptr, scale_ptr, bias_ptr, residual_ptr, out_ptr,
    partial_ptr, arrived_ptr, m, stride_x, eps, offset,
    N: tl.constexpr, K: tl.constexpr,
    NORM: tl.constexpr, ACTIVATION: tl.constexpr, VEC: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TAIL: tl.constexpr,
    SQUARES: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    EVICT: tl.constexpr, EMULATED: tl.constexpr, EARLY: tl.constexpr,
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
        w = load_tile(weight_ptr, w_rows, K, 0, BLOCK_K, EVICT)
        if ACTIVATION != 0:
            w_up = load_tile(weight_ptr, w_rows + N, K, 0, BLOCK_K, EVICT)
        if TAIL != 0:
            w_tail = load_last_tile(weight_ptr, w_rows, K, BLOCK_K, K, TAIL, EVICT)
            if ACTIVATION != 0:
                w_up_tail = load_last_tile(weight_ptr, w_rows + N, K, BLOCK_K, K, TAIL, EVICT)
        await_previous(EARLY)
        x = load_tile(x_ptr, x_rows, stride_x, 0, BLOCK_K, "")
        if TAIL != 0:
            x_tail = load_last_tile(x_ptr, x_rows, stride_x, BLOCK_K, K, TAIL, "")
        if NORM != 0:
            total = tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=1)
            if TAIL != 0:
                total += tl.sum(x_tail.to(tl.float32) * x_tail.to(tl.float32), axis=1)
            scale = tl.rsqrt(total / K + eps)
        x = normed(x, scale, norm_ptr, offset, 0, K, BLOCK_K, NORM, EMULATED)
        acc = _add_product(acc, x, w, VEC, EMULATED)
        if ACTIVATION != 0:
            acc_up = _add_product(acc_up, x, w_up, VEC, EMULATED)
    else:
        await_previous(EARLY)
        if NORM != 0:
            total = _sum_of_squares(x_ptr, x_rows, stride_x, K, SQUARES, BLOCK_M)
            scale = tl.rsqrt(total / K + eps)
        PER_SHARE: tl.constexpr = (BLOCKS + SPLIT - 1) // SPLIT
        begin = share * PER_SHARE
        end = tl.minimum(begin + PER_SHARE, BLOCKS)
        for block in tl.range(begin, end, num_stages=STAGES):
            first = block * BLOCK_K
            x = load_tile(x_ptr, x_rows, stride_x, first, BLOCK_K, "")
            w = load_tile(weight_ptr, w_rows, K, first, BLOCK_K, EVICT)
            x = normed(x, scale, norm_ptr, offset, first, K, BLOCK_K, NORM, EMULATED)
            acc = _add_product(acc, x, w, VEC, EMULATED)
            if ACTIVATION != 0:
                w_up = load_tile(weight_ptr, w_rows + N, K, first, BLOCK_K, EVICT)
                acc_up = _add_product(acc_up, x, w_up, VEC, EMULATED)
        if TAIL != 0:
            x_tail = load_last_tile(x_ptr, x_rows, stride_x, BLOCKS * BLOCK_K, K, TAIL, "")
            w_tail = load_last_tile(weight_ptr, w_rows, K, BLOCKS * BLOCK_K, K, TAIL, EVICT)
            if ACTIVATION != 0:
                w_up_tail = load_last_tile(
                    weight_ptr, w_rows + N, K, BLOCKS * BLOCK_K, K, TAIL, EVICT
                )

    if VEC:
        acc = tl.sum(acc, axis=1)[None, :]
        acc_up = tl.sum(acc_up, axis=1)[None, :]
    if TAIL != 0:
        x_tail = normed(x_tail, scale, norm_ptr, offset, BLOCKS * BLOCK_K, K, TAIL, NORM, EMULATED)
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

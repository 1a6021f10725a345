"""Attention over pages: one kernel for prompt chunks and decoding rows, in one launch.

The line of a step's tokens is cut into *query blocks*: up to `BLOCK_Q` neighbouring tokens of one sequence. A program
takes one block and one key head, lays the query heads that share it (GQA) out as further queries, and goes over the
sequence's pages with an online softmax (Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867; Dao 2022,
https://arxiv.org/abs/2205.14135). A token that decodes is also cut along its keys into splits of `SPLIT` tokens, merged
in order by a second kernel (flash decoding). Where the cuts lie depends on the sequence alone, never on the batch, so
its result does not either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_early import await_previous, early_options

# Keys of one split: long enough that few are merged, short enough that one row fills a GPU from 8k tokens on.
SPLIT = 512


@dataclass(frozen=True, eq=False)
class PagedStep:
    """What attention needs to know of a step; int32 tensors on the device, the same for every layer.

    Attributes:
        positions: of each token of the line, `[tokens]`.
        token_slots: whose it is, `[tokens]`; -1 for padding, which is neither stored nor attended to.
        blocks: `[blocks, 4]`: slot, first token in the line, number of tokens, first position. No tokens make an empty
            block; -1 is one token that decodes, which alone may be cut along its keys.
        page_table: `[slots, pages]`: where each slot's tokens are.
        block_q: tokens a block holds at most.
        splits: how many splits the longest decoding token may have, see `splits_for`.
    """

    positions: Tensor
    token_slots: Tensor
    blocks: Tensor
    page_table: Tensor
    block_q: int
    splits: int


@triton.jit
def _store(
    key, value, cache, positions, token_slots, page_table,
    key_token, key_head, value_token, value_head, table_row,
    cache_value, cache_page, cache_head,
    PAGE: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    slot = tl.load(token_slots + token)
    if slot >= 0:
        position = tl.load(positions + token)
        page = tl.load(page_table + slot * table_row + position // PAGE).to(tl.int64)
        head = tl.arange(0, BLOCK_H)[:, None]
        dim = tl.arange(0, BLOCK_D)[None, :]
        inside = (head < HEADS) & (dim < DIM)
        to = cache + page * cache_page + head * cache_head + (position % PAGE) * DIM + dim
        k = tl.load(key + token * key_token + head * key_head + dim, mask=inside)
        v = tl.load(value + token * value_token + head * value_head + dim, mask=inside)
        tl.store(to, k, mask=inside)
        tl.store(to + cache_value, v, mask=inside)


def store(key: Tensor, value: Tensor, cache: Tensor, step: PagedStep) -> None:
    """Writes keys and values `[tokens, kv_heads, dim]` (any strides with dense `dim`) to their pages.

    Args:
        cache: one layer's, `[2, pages, kv_heads, page_size, dim]`.
    """
    tokens, heads, dim = key.shape
    _store[(tokens,)](
        key, value, cache, step.positions, step.token_slots, step.page_table,
        key.stride(0), key.stride(1), value.stride(0), value.stride(1), step.page_table.stride(0),
        cache.stride(0), cache.stride(1), cache.stride(2),
        PAGE=cache.shape[3], HEADS=heads, DIM=dim,
        BLOCK_H=triton.next_power_of_2(heads), BLOCK_D=triton.next_power_of_2(dim),
        num_warps=4,
    )  # fmt: skip


@triton.jit
def _attend(
    query, cache, out, partial, partial_lse, blocks, page_table,
    query_token, query_head, table_row, cache_value, cache_page, cache_head,
    scale, softcap, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    SPLITS: tl.constexpr, SPLIT_KEYS: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    slot = tl.load(blocks + block * 4)
    first = tl.load(blocks + block * 4 + 1)
    marked = tl.load(blocks + block * 4 + 2)
    count = tl.abs(marked)
    position = tl.load(blocks + block * 4 + 3)
    context = position + count
    start = 0
    end = context
    # Only decoding tokens are cut along their keys: chunks have blocks enough.
    alone = (marked > 0) | (context <= SPLIT_KEYS) | (SPLITS == 1)
    if alone:
        if split > 0:
            end = 0
    else:
        start = split * SPLIT_KEYS
        end = tl.minimum(context, start + SPLIT_KEYS)
    live = (count > 0) & (start < end)
    if HAS_WINDOW:
        # The first query of the block sees the oldest key of all.
        oldest = tl.maximum(position - window + 1, 0)
        start = tl.maximum(start, oldest // BLOCK_N * BLOCK_N)
    await_previous(EARLY)
    if live:
        row = tl.arange(0, BLOCK_M)
        token = row // GROUP
        head = kv_head * GROUP + row % GROUP
        dim = tl.arange(0, BLOCK_D)
        real = token < count
        seen = position + token  # the last key a row may look at
        q = tl.load(
            query + (first + token)[:, None] * query_token + head[:, None] * query_head + dim[None, :],
            mask=real[:, None] & (dim < DIM)[None, :], other=0.0,
        )  # fmt: skip
        best = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        table = page_table + slot * table_row
        base = cache + kv_head * cache_head
        for at in range(start, end, BLOCK_N):
            place = at + tl.arange(0, BLOCK_N)
            there = place < end
            page = tl.load(table + place // PAGE, mask=there, other=0).to(tl.int64)
            where = page * cache_page + (place % PAGE) * DIM
            k = tl.load(
                base + where[None, :] + dim[:, None],
                mask=there[None, :] & (dim < DIM)[:, None], other=0.0,
            )  # fmt: skip
            scores = tl.dot(q, k, input_precision=PRECISION) * scale
            if HAS_SOFTCAP:
                # tanh by exp, which no backend lacks; its argument is bounded below overflow.
                ratio = tl.minimum(tl.maximum(scores / softcap, -20.0), 20.0)
                grown = tl.exp(2.0 * ratio)
                scores = softcap * (grown - 1.0) / (grown + 1.0)
            visible = there[None, :] & (place[None, :] <= seen[:, None])
            if HAS_WINDOW:
                visible = visible & (place[None, :] > seen[:, None] - window)
            scores = tl.where(visible, scores, float("-inf"))
            peak = tl.maximum(best, tl.max(scores, 1))
            # A row that sees none of these keys has no peak yet: keep -inf - -inf out of exp.
            safe = tl.where(peak == float("-inf"), 0.0, peak)
            shrink = tl.exp(best - safe)
            weights = tl.exp(scores - safe[:, None])
            v = tl.load(
                base + cache_value + where[:, None] + dim[None, :],
                mask=there[:, None] & (dim < DIM)[None, :], other=0.0,
            )  # fmt: skip
            # A weight of zero does not undo what is not a number: a row that looks elsewhere keeps clear of it.
            v = tl.where(tl.abs(v.to(tl.float32)) < float("inf"), v, 0.0).to(v.dtype)
            total = total * shrink + tl.sum(weights, 1)
            acc = acc * shrink[:, None]
            acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
            best = peak
        inside = real[:, None] & (dim < DIM)[None, :]
        # Rows that pad the tile may see no key at all, and so may a split before a window.
        none = total == 0.0
        acc = acc / tl.where(none, 1.0, total)[:, None]
        if alone:
            to = out + ((first + token) * HEADS + head)[:, None] * DIM + dim[None, :]
            tl.store(to, acc.to(out.dtype.element_ty), mask=inside)
        else:
            lse = tl.where(none, float("-inf"), best + tl.log(tl.where(none, 1.0, total)))
            spot = (block * HEADS + head) * SPLITS + split
            tl.store(partial + spot[:, None] * DIM + dim[None, :], acc, mask=inside)
            tl.store(partial_lse + spot, lse, mask=real)


@triton.jit
def _merge(
    partial, partial_lse, out, blocks,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    SPLITS: tl.constexpr, SPLIT_KEYS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    head = tl.program_id(1)
    first = tl.load(blocks + block * 4 + 1)
    marked = tl.load(blocks + block * 4 + 2)
    context = tl.load(blocks + block * 4 + 3) + 1
    await_previous(EARLY)
    if (marked < 0) & (context > SPLIT_KEYS):
        used = (context + SPLIT_KEYS - 1) // SPLIT_KEYS
        dim = tl.arange(0, BLOCK_D)
        spot = (block * HEADS + head) * SPLITS
        best = float("-inf")
        for i in range(0, used):
            best = tl.maximum(best, tl.load(partial_lse + spot + i))
        acc = tl.zeros([BLOCK_D], tl.float32)
        total = 0.0
        for i in range(0, used):
            weight = tl.exp(tl.load(partial_lse + spot + i) - best)
            acc += weight * tl.load(partial + (spot + i) * DIM + dim, mask=dim < DIM, other=0.0)
            total += weight
        to = out + (first * HEADS + head) * DIM + dim
        tl.store(to, (acc / total).to(out.dtype.element_ty), mask=dim < DIM)


def attend(
    query: Tensor,
    cache: Tensor,
    step: PagedStep,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """What the queries find in the pages; keys and values of this step are stored first.

    Args:
        query: `[tokens, heads, dim]`, any strides with dense `dim`.
        cache: one layer's, `[2, pages, kv_heads, page_size, dim]`.

    Returns:
        `[tokens, heads, dim]`; rows of padding tokens are not written.
    """
    tokens, heads, dim = query.shape
    kv_heads, page_size = cache.shape[2], cache.shape[3]
    group, splits = heads // kv_heads, step.splits
    num_blocks = step.blocks.shape[0]
    # Padding is computed with: zeros keep what is not a number out of it.
    out = torch.zeros if query.device.type == "cpu" else torch.empty
    result = out((tokens, heads, dim), dtype=query.dtype, device=query.device)
    partial = partial_lse = result
    if splits > 1:
        shape = (num_blocks, heads, splits)
        partial = torch.empty((*shape, dim), dtype=torch.float32, device=query.device)
        partial_lse = torch.empty(shape, dtype=torch.float32, device=query.device)
    # The same for every batch, or a row's bits would depend on it. Measured on an H100 with 1 to 256 rows.
    wide = dim > 128 or query.dtype == torch.float32
    block_n = 64 if wide or step.block_q > 1 else 128
    block_m = max(16, triton.next_power_of_2(step.block_q * group))
    _attend[(num_blocks, kv_heads, splits)](
        query, cache, result, partial, partial_lse, step.blocks, step.page_table,
        query.stride(0), query.stride(1), step.page_table.stride(0),
        cache.stride(0), cache.stride(1), cache.stride(2),
        scale, softcap or 0.0, window or 0,
        HEADS=heads, GROUP=group, DIM=dim, PAGE=page_size,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_D=max(16, triton.next_power_of_2(dim)),
        SPLITS=splits, SPLIT_KEYS=SPLIT,
        HAS_WINDOW=window is not None, HAS_SOFTCAP=softcap is not None,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        num_warps=4, num_stages=2 if wide else 3, **early_options(tokens),
    )  # fmt: skip
    if splits > 1:
        _merge[(num_blocks, heads)](
            partial, partial_lse, result, step.blocks,
            HEADS=heads, DIM=dim, BLOCK_D=triton.next_power_of_2(dim),
            SPLITS=splits, SPLIT_KEYS=SPLIT, num_warps=1, **early_options(tokens),
        )  # fmt: skip
    return result


def block_q(heads: int, kv_heads: int, tile: int) -> int:
    """Tokens of a query block that fills a tile of so many rows with the heads that share a key head."""
    return max(1, tile // int(triton.next_power_of_2(heads // kv_heads)))


def splits_for(context: int) -> int:
    """How many splits to launch for `context` keys: 1, 16, 256, …

    Few numbers, for each is another graph; splits that turn out empty are cheap.
    """
    splits = 1
    while splits * SPLIT < context:
        splits *= 16
    return splits

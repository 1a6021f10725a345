"""The small operators between a decoder layer's matrix products, each one kernel over a line of tokens.

All compute in fp32 and round once, where transformers' eager code rounds after every operator.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_attention import PagedStep
from .triton_early import await_previous, early_options


@triton.jit
def _rotate_and_store(
    qkv, cos, sin, q_weight, k_weight, cache, positions, token_slots, page_table,
    qkv_token, table_row, cache_value, cache_page, cache_head, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr,
    PAGE: tl.constexpr, NORMED: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_KV: tl.constexpr, BLOCK_HALF: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    slot = tl.load(token_slots + token)
    position = tl.load(positions + token)
    half = tl.arange(0, BLOCK_HALF)[None, :]
    inside = half < HALF
    c = tl.load(cos + position * HALF + half, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + position * HALF + half, mask=inside, other=0.0).to(tl.float32)
    page = tl.load(page_table + slot * table_row + position // PAGE, mask=slot >= 0).to(tl.int64)
    await_previous(EARLY)

    head = tl.arange(0, BLOCK_H)[:, None]
    real = (head < HEADS) & inside
    at = qkv + token * qkv_token + head * DIM + half
    low = tl.load(at, mask=real, other=0.0).to(tl.float32)
    high = tl.load(at + HALF, mask=real, other=0.0).to(tl.float32)
    if NORMED:
        variance = (tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)) / DIM
        factor = tl.rsqrt(variance + eps)[:, None]
        low = low * factor * tl.load(q_weight + half, mask=inside, other=0.0).to(tl.float32)
        high = (
            high * factor * tl.load(q_weight + HALF + half, mask=inside, other=0.0).to(tl.float32)
        )
    tl.store(at, (low * c - high * s).to(qkv.dtype.element_ty), mask=real)
    tl.store(at + HALF, (high * c + low * s).to(qkv.dtype.element_ty), mask=real)

    if slot >= 0:
        kv_head = tl.arange(0, BLOCK_KV)[:, None]
        kv_real = (kv_head < KV_HEADS) & inside
        kv_at = qkv + token * qkv_token + (HEADS + kv_head) * DIM + half
        k_low = tl.load(kv_at, mask=kv_real, other=0.0).to(tl.float32)
        k_high = tl.load(kv_at + HALF, mask=kv_real, other=0.0).to(tl.float32)
        if NORMED:
            k_variance = (tl.sum(k_low * k_low, axis=1) + tl.sum(k_high * k_high, axis=1)) / DIM
            k_factor = tl.rsqrt(k_variance + eps)[:, None]
            k_low = (
                k_low * k_factor * tl.load(k_weight + half, mask=inside, other=0.0).to(tl.float32)
            )
            k_high = (
                k_high
                * k_factor
                * tl.load(k_weight + HALF + half, mask=inside, other=0.0).to(tl.float32)
            )
        to = cache + page * cache_page + kv_head * cache_head + (position % PAGE) * DIM + half
        tl.store(to, (k_low * c - k_high * s).to(cache.dtype.element_ty), mask=kv_real)
        tl.store(to + HALF, (k_high * c + k_low * s).to(cache.dtype.element_ty), mask=kv_real)
        kv_at = qkv + token * qkv_token + (HEADS + KV_HEADS + kv_head) * DIM + half
        tl.store(to + cache_value, tl.load(kv_at, mask=kv_real), mask=kv_real)
        tl.store(to + cache_value + HALF, tl.load(kv_at + HALF, mask=kv_real), mask=kv_real)


def rotate_and_store(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    cache: Tensor,
    step: PagedStep,
    heads: int,
    norms: tuple[Tensor, Tensor, float] | None = None,
) -> Tensor:
    """Rotates queries in place, and keys on their way to the pages, where values go too.

    Args:
        qkv: `[tokens, (heads + 2 kv_heads) * dim]`, dense rows.
        cos, sin: `[positions, dim / 2]`, for the two halves of a head as Llama pairs them.
        cache: one layer's, `[2, pages, kv_heads, page_size, dim]`.
        norms: RMSNorm weights `[dim]` of queries and keys, and epsilon (Qwen 3).

    Returns:
        The queries, `[tokens, heads, dim]`, a view of `qkv`.
    """
    _, _, kv_heads, page_size, dim = cache.shape
    tokens = qkv.shape[0]
    q_weight, k_weight, eps = norms or (qkv, qkv, 0.0)
    half = dim // 2
    _rotate_and_store[(tokens,)](
        qkv, cos, sin, q_weight, k_weight, cache, step.positions, step.token_slots, step.page_table,
        qkv.stride(0), step.page_table.stride(0),
        cache.stride(0), cache.stride(1), cache.stride(2), eps,
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, HALF=half, PAGE=page_size,
        NORMED=norms is not None,
        BLOCK_H=triton.next_power_of_2(heads), BLOCK_KV=triton.next_power_of_2(kv_heads),
        BLOCK_HALF=triton.next_power_of_2(half),
        num_warps=4, **early_options(tokens),
    )  # fmt: skip
    return qkv[:, : heads * dim].view(tokens, heads, dim)


@triton.jit(do_not_specialize=["length"])
def _begin(
    tokens, last_token, token_slots, updates, page_table, ids, table_row, length,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, BLOCK)
    program = tl.program_id(0)
    if program < tl.num_programs(0) - 1:
        place = program * BLOCK + at
        real = place < length
        token = tl.load(tokens + place, mask=real, other=0)
        slot = tl.load(token_slots + place, mask=real, other=-1)
        known = tl.load(last_token + slot, mask=real & (token < 0) & (slot >= 0), other=0)
        tl.store(ids + place, tl.where(token < 0, known, token).to(tl.int64), mask=real)
    else:
        count = tl.load(updates)
        for start in range(0, count, BLOCK):
            inside = start + at < count
            entry = updates + 1 + (start + at) * 3
            row = tl.load(entry, mask=inside, other=0)
            column = tl.load(entry + 1, mask=inside, other=0)
            page = tl.load(entry + 2, mask=inside, other=0)
            tl.store(page_table + row * table_row + column, page, mask=inside)


def begin(
    tokens: Tensor,
    token_slots: Tensor,
    updates: Tensor,
    last_token: Tensor,
    page_table: Tensor,
) -> Tensor:
    """The first kernel of a step: input ids, and news of pages.

    Args:
        tokens: `[tokens]`; -1 where the token is the slot's last one, which the host may not know yet.
        token_slots: `[tokens]`; -1 for padding.
        updates: `[1 + 3 n]`: how many, then (slot, place, page) for `page_table`.
        last_token: `[slots]`.
        page_table: `[slots, pages]`, changed in place.

    Returns:
        The line's ids `[tokens]`, int64.
    """
    ids = torch.empty(tokens.shape, dtype=torch.int64, device=tokens.device)
    length, block = tokens.shape[0], 256
    _begin[(triton.cdiv(length, block) + 1,)](
        tokens, last_token, token_slots, updates, page_table, ids, page_table.stride(0), length,
        BLOCK=block, num_warps=4,
    )  # fmt: skip
    return ids

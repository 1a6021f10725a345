"""Where top-k and top-p end: the largest key from which on upwards a row's measures reach a target.

Keys are those of `keys_of`; a measure is a token's weight, or one where tokens are counted. A result of `low` may
also mean that nothing reaches the target. Both searches bisect: candidates stay in registers between the passes, while
a whole row is read again in each.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_weights import keys_of, tempered, weights_of


@triton.jit
def candidates_threshold(keys, measures, low, high, target):
    while low < high:
        middle = (low + high + 1) >> 1
        if tl.sum(tl.where(keys >= middle.to(tl.int32), measures, 0), 0) >= target:
            low = middle
        else:
            high = middle - 1
    return low


@triton.jit
def row_threshold(
    source,
    vocab,
    temperature,
    peak,
    unit,
    low,
    high,
    target,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Reading and weighing cost more than comparing, so one pass tries three keys.
    while low < high:
        quarter = (high - low + 3) >> 2
        first, second, third = low + quarter, low + 2 * quarter, low + 3 * quarter
        to_first = tl.zeros((BLOCK,), tl.int64)
        to_second = tl.zeros((BLOCK,), tl.int64)
        to_third = tl.zeros((BLOCK,), tl.int64)
        for start in range(0, vocab, BLOCK):
            values = tempered(source, start + tl.arange(0, BLOCK), vocab, temperature)
            keys = keys_of(values).to(tl.int64)
            if COUNT:
                measures = tl.full((BLOCK,), 1, tl.int64)
            else:
                measures = weights_of(tl.exp(values - peak), unit)
            to_first += tl.where(keys >= first, measures, 0)
            to_second += tl.where(keys >= second, measures, 0)
            to_third += tl.where(keys >= third, measures, 0)
        if tl.sum(to_third, 0) >= target:
            low = third
        elif tl.sum(to_second, 0) >= target:
            low = second
            high = third - 1
        elif tl.sum(to_first, 0) >= target:
            low = first
            high = second - 1
        else:
            high = first - 1
    return low

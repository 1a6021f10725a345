"""Draws one row's token: from its chunks where nothing is left out, else from its candidates, else from all of it.

What top-k and top-p keep begins at a key, see `keys_of`. Of the tokens that share it, the first ones are kept until
the limit of top-p is reached.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_table import ALL
from .triton_thresholds import candidates_threshold, row_threshold
from .triton_weights import keys_of, part_of, place_of, tempered, weights_of

_LAST_INT = tl.constexpr(2**31 - 1)


@triton.jit
def draw_chunks(
    source,
    vocab,
    temperature,
    peak,
    unit,
    min_p,
    part,
    of_chunks,
    CHUNK: tl.constexpr,
    MAX_CHUNKS: tl.constexpr,
):
    """The chunk in which the running sum first exceeds the target, then the place in it."""
    target = part_of(tl.sum(of_chunks, 0), part)
    chunk = place_of(of_chunks, target)
    target -= tl.sum(tl.where(tl.arange(0, MAX_CHUNKS) < chunk, of_chunks, 0), 0)
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    relative = tl.exp(tempered(source, ids, vocab, temperature) - peak)
    weights = tl.where(relative >= min_p, weights_of(relative, unit), 0)
    return chunk * CHUNK + place_of(weights, target)


@triton.jit
def draw_candidates(values, weights, relative, ids, inside, total, top_k, top_p, min_p, part):
    keys = tl.where(inside, keys_of(values), -_LAST_INT - 1)
    least = tl.min(tl.where(inside, keys, _LAST_INT), 0).to(tl.int64)
    most = tl.max(keys, 0).to(tl.int64)
    if top_k > 0:
        least = candidates_threshold(keys, inside.to(tl.int32), least, most, top_k)
        total = tl.sum(tl.where(keys >= least, weights, 0), 0)
    limit = tl.maximum(part_of(total, top_p), 1)
    if top_p < ALL:
        least = candidates_threshold(keys, weights, least, most, limit)
    above = tl.sum(tl.where(keys > least, weights, 0), 0)
    each = tl.max(tl.where(keys == least, weights, 0), 0)
    kept, _ = _kept(keys, weights, relative, least, above, each, 0, limit, min_p)
    place = place_of(kept, part_of(tl.sum(kept, 0), part))
    return tl.sum(tl.where(tl.arange(0, ids.shape[0]) == place, ids, 0), 0)


@triton.jit
def draw_row(
    source,
    vocab,
    temperature,
    peak,
    unit,
    reach,
    top_k,
    top_p,
    min_p,
    part,
    BLOCK: tl.constexpr,
):
    least = keys_of(peak - reach).to(tl.int64)  # below it nothing has a weight
    most = keys_of(peak).to(tl.int64)
    if top_k > 0:
        least = row_threshold(
            source, vocab, temperature, peak, unit, least, most, top_k, True, BLOCK
        )
    above, at, each = _row_split(source, vocab, temperature, peak, unit, least, BLOCK)
    limit = tl.maximum(part_of(above + at, top_p), 1)
    if top_p < ALL:
        least = row_threshold(
            source, vocab, temperature, peak, unit, least, most, limit, False, BLOCK
        )
        above, at, each = _row_split(source, vocab, temperature, peak, unit, least, BLOCK)
    total = tl.zeros((), tl.int64)
    ties = tl.zeros((), tl.int64)
    for start in range(0, vocab, BLOCK):
        values = tempered(source, start + tl.arange(0, BLOCK), vocab, temperature)
        weights, number = _kept_values(values, peak, unit, least, above, each, ties, limit, min_p)
        total += tl.sum(weights, 0)
        ties += number
    target = part_of(total, part)
    token = tl.zeros((), tl.int32)
    total = tl.zeros((), tl.int64)
    ties = tl.zeros((), tl.int64)
    for start in range(0, vocab, BLOCK):
        values = tempered(source, start + tl.arange(0, BLOCK), vocab, temperature)
        weights, number = _kept_values(values, peak, unit, least, above, each, ties, limit, min_p)
        ties += number
        after = total + tl.sum(weights, 0)
        if (total <= target) & (target < after):
            token = start + place_of(weights, target - total)
        total = after
    return token


@triton.jit
def _row_split(source, vocab, temperature, peak, unit, key, BLOCK: tl.constexpr):
    """The weight above a key, at it, and of one token at it."""
    above = tl.zeros((BLOCK,), tl.int64)
    at = tl.zeros((BLOCK,), tl.int64)
    each = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, vocab, BLOCK):
        values = tempered(source, start + tl.arange(0, BLOCK), vocab, temperature)
        keys = keys_of(values).to(tl.int64)
        weights = weights_of(tl.exp(values - peak), unit)
        ties = tl.where(keys == key, weights, 0)
        above += tl.where(keys > key, weights, 0)
        at += ties
        each = tl.maximum(each, ties)
    return tl.sum(above, 0), tl.sum(at, 0), tl.max(each, 0)


@triton.jit
def _kept_values(values, peak, unit, key, above, each, ties_before, limit, min_p):
    relative = tl.exp(values - peak)
    weights = weights_of(relative, unit)
    keys = keys_of(values).to(tl.int64)
    return _kept(keys, weights, relative, key, above, each, ties_before, limit, min_p)


@triton.jit
def _kept(keys, weights, relative, key, above, each, ties_before, limit, min_p):
    """The weights, zero where left out, and how many tokens are at the key."""
    ties = (keys == key).to(tl.int64)
    before = above + (ties_before + tl.cumsum(ties, 0) - 1) * each
    kept = ((keys > key) | ((ties > 0) & (before < limit))) & (relative >= min_p)
    return tl.where(kept, weights, 0), tl.sum(ties, 0)

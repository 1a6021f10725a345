"""Triton kernels for masks, penalties, bias and bans: what `logits` does, into a copy of the logits.

Two launches: what touches many tokens of a row goes through all of them, what names single tokens comes after it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sampling_table import BANNED_AT, BIAS_AT, MAX_BIAS, Field
from .triton_table import is_penalised, real, word, words_of

_REPETITION = tl.constexpr(Field.REPETITION.value)
_PRESENCE = tl.constexpr(Field.PRESENCE.value)
_FREQUENCY = tl.constexpr(Field.FREQUENCY.value)
_MIN_TOKENS = tl.constexpr(Field.MIN_TOKENS.value)
_BIASES = tl.constexpr(Field.BIASES.value)
_BANS = tl.constexpr(Field.BANS.value)
_BIAS_AT = tl.constexpr(BIAS_AT)
_AMOUNT_AT = tl.constexpr(BIAS_AT + MAX_BIAS)
_BANNED_AT = tl.constexpr(BANNED_AT)
_LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def adjust_chunks(
    logits,
    stride,
    slots,
    table,
    counts,
    seen,
    adjusted,
    masks,
    mask_at,
    vocab,
    mask_words,
    CHUNK: tl.constexpr,
    MASKING: tl.constexpr,
):
    """Copies logits to fp32 [R, V], masks them, and takes penalties off them. Grid: rows, chunks."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + row)
    if slot >= 0:
        ids = chunk * CHUNK + tl.arange(0, CHUNK)
        inside = ids < vocab
        source = logits + row.to(tl.int64) * stride
        values = tl.load(source + ids, mask=inside, other=0).to(tl.float32)
        if MASKING:
            values = _masked(values, masks, mask_at, row, ids, inside, mask_words)
        if is_penalised(table, slot):
            history = slot.to(tl.int64) * vocab + ids
            values = _repeated(values, table, slot, seen, history, inside)
            taken = _taken(table, slot, counts, history, inside)
            values -= taken.to(tl.float32)
        tl.store(adjusted + row.to(tl.int64) * vocab + ids, values, mask=inside)


@triton.jit
def adjust_rows(
    logits,
    stride,
    slots,
    positions,
    table,
    counts,
    seen,
    adjusted,
    masks,
    mask_at,
    vocab,
    mask_words,
    BLOCK: tl.constexpr,
    MASKING: tl.constexpr,
):
    """Writes biased and banned tokens into the adjusted logits. Grid: rows."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    if slot >= 0:
        mine = words_of(table, slot)
        source = logits + row.to(tl.int64) * stride
        target = adjusted + row.to(tl.int64) * vocab
        number = word(table, slot, _BIASES).to(tl.int32)
        for start in range(0, number, BLOCK):
            places = start + tl.arange(0, BLOCK)
            inside = places < number
            ids = tl.load(mine + _BIAS_AT + places, mask=inside, other=0)
            words = tl.load(mine + _AMOUNT_AT + places, mask=inside, other=0)
            amounts = words.to(tl.float64, bitcast=True)
            values = tl.load(source + ids, mask=inside, other=0).to(tl.float32)
            if MASKING:
                values = _masked(values, masks, mask_at, row, ids, inside, mask_words)
            if is_penalised(table, slot):
                history = slot.to(tl.int64) * vocab + ids
                values = _repeated(values, table, slot, seen, history, inside)
                # One sum of bias and penalties, rounded once.
                amounts -= _taken(table, slot, counts, history, inside)
            tl.store(target + ids, values + amounts.to(tl.float32), mask=inside)
        if tl.load(positions + row) < word(table, slot, _MIN_TOKENS):
            tl.debug_barrier()  # a ban beats any bias
            banned = word(table, slot, _BANS).to(tl.int32)
            for start in range(0, banned, BLOCK):
                places = start + tl.arange(0, BLOCK)
                inside = places < banned
                ids = tl.load(mine + _BANNED_AT + places, mask=inside, other=0)
                tl.store(target + ids, float("-inf"), mask=inside)


@triton.jit
def _masked(values, masks, mask_at, row, ids, inside, mask_words):
    """What the row's mask leaves; rows without one are not changed."""
    place = tl.load(mask_at + row)
    mine = masks + tl.maximum(place, 0).to(tl.int64) * mask_words
    bits = tl.load(mine + ids // 32, mask=inside, other=0)
    allowed = ((bits >> (ids % 32).to(tl.int32)) & 1) != 0
    return tl.where(allowed | (place < 0), values, float("-inf"))


@triton.jit
def _repeated(values, table, slot, seen, history, inside):
    """The logits after the penalty for what prompt or output have."""
    known = tl.load(seen + history, mask=inside, other=0)
    penalty = real(table, slot, _REPETITION).to(tl.float32)
    # A NaN must stay one, so no `minimum`.
    new = tl.where(values < 0, values * penalty, tl.div_rn(values, penalty))
    new = tl.where(new > _LARGEST, _LARGEST, new)
    return tl.where(known != 0, tl.where(penalty != 1.0, new, values), values)


@triton.jit
def _taken(table, slot, counts, history, inside):
    """What presence and frequency take off the logits of what the output has; of others nothing."""
    number = tl.load(counts + history, mask=inside, other=0)
    each = real(table, slot, _FREQUENCY)
    taken = real(table, slot, _PRESENCE) + number.to(tl.float64) * each
    return tl.where(number > 0, taken, 0.0)

"""Triton kernels for masks, penalties, bias and bans: what `logits` does, into a copy of the logits.

Two launches: what touches many tokens of a row goes through all of them, what names single tokens comes after it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sampling_table import BANNED_AT, BIAS_AT, MAX_BIAS, Field, Flag, row_words
from .triton_sampling import real, word

_WIDTH = tl.constexpr(row_words())
_REPETITION = tl.constexpr(Field.REPETITION.value)
_PRESENCE = tl.constexpr(Field.PRESENCE.value)
_FREQUENCY = tl.constexpr(Field.FREQUENCY.value)
_MIN_TOKENS = tl.constexpr(Field.MIN_TOKENS.value)
_FLAGS = tl.constexpr(Field.FLAGS.value)
_BIASES = tl.constexpr(Field.BIASES.value)
_BANS = tl.constexpr(Field.BANS.value)
_BIAS_AT = tl.constexpr(BIAS_AT)
_AMOUNT_AT = tl.constexpr(BIAS_AT + MAX_BIAS)
_BANNED_AT = tl.constexpr(BANNED_AT)
_PENALTIES = tl.constexpr(Flag.PENALTIES.value)
_LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _repeated(values, seen, penalty):
    # A NaN must stay one, so no `minimum`.
    new = tl.where(values < 0, values * penalty, tl.div_rn(values, penalty))
    new = tl.where(new > _LARGEST, _LARGEST, new)
    return tl.where(seen != 0, tl.where(penalty != 1.0, new, values), values)


@triton.jit
def _masked(values, masks, mask_at, row, ids, inside, mask_words):
    """What the row's mask leaves; rows without one are not changed."""
    place = tl.load(mask_at + row)
    mine = masks + tl.maximum(place, 0).to(tl.int64) * mask_words
    bits = tl.load(mine + ids // 32, mask=inside, other=0)
    allowed = ((bits >> (ids % 32).to(tl.int32)) & 1) != 0
    return tl.where(allowed | (place < 0), values, float("-inf"))


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
    COUNTING: tl.constexpr,
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
        if COUNTING:
            if (word(table, slot, _FLAGS) & _PENALTIES) != 0:
                places = slot.to(tl.int64) * vocab + ids
                known = tl.load(seen + places, mask=inside, other=0)
                penalty = real(table, slot, _REPETITION).to(tl.float32)
                values = _repeated(values, known, penalty)
                number = tl.load(counts + places, mask=inside, other=0)
                amounts = -(
                    real(table, slot, _PRESENCE)
                    + number.to(tl.float64) * real(table, slot, _FREQUENCY)
                )
                values = tl.where(number > 0, values + amounts.to(tl.float32), values)
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
    COUNTING: tl.constexpr,
    MASKING: tl.constexpr,
):
    """Writes biased and banned tokens into the adjusted logits. Grid: rows."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    if slot >= 0:
        mine = table + slot.to(tl.int64) * _WIDTH
        target = adjusted + row.to(tl.int64) * vocab
        number = word(table, slot, _BIASES).to(tl.int32)
        for start in range(0, number, BLOCK):
            places = start + tl.arange(0, BLOCK)
            inside = places < number
            ids = tl.load(mine + _BIAS_AT + places, mask=inside, other=0)
            words = tl.load(mine + _AMOUNT_AT + places, mask=inside, other=0)
            amounts = words.to(tl.float64, bitcast=True)
            source = logits + row.to(tl.int64) * stride
            values = tl.load(source + ids, mask=inside, other=0).to(tl.float32)
            if MASKING:
                values = _masked(values, masks, mask_at, row, ids, inside, mask_words)
            if COUNTING:
                if (word(table, slot, _FLAGS) & _PENALTIES) != 0:
                    history = slot.to(tl.int64) * vocab + ids
                    known = tl.load(seen + history, mask=inside, other=0)
                    penalty = real(table, slot, _REPETITION).to(tl.float32)
                    values = _repeated(values, known, penalty)
                    count = tl.load(counts + history, mask=inside, other=0)
                    taken = real(table, slot, _PRESENCE) + count.to(tl.float64) * real(
                        table, slot, _FREQUENCY
                    )
                    # One sum of bias and penalties, rounded once.
                    amounts = tl.where(count > 0, amounts - taken, amounts)
            tl.store(target + ids, values + amounts.to(tl.float32), mask=inside)
        if tl.load(positions + row) < word(table, slot, _MIN_TOKENS):
            tl.debug_barrier()  # a ban beats any bias
            banned = word(table, slot, _BANS).to(tl.int32)
            for start in range(0, banned, BLOCK):
                places = start + tl.arange(0, BLOCK)
                inside = places < banned
                ids = tl.load(mine + _BANNED_AT + places, mask=inside, other=0)
                tl.store(target + ids, float("-inf"), mask=inside)

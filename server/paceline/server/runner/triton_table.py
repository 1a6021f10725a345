"""The table of `sampling_table`, as kernels read it."""

from __future__ import annotations

import triton
import triton.language as tl

from .noise import SHARE_BITS
from .sampling_table import Field, Flag, row_words

_WIDTH = tl.constexpr(row_words())
_TEMPERATURE = tl.constexpr(Field.TEMPERATURE.value)
_TOP_K = tl.constexpr(Field.TOP_K.value)
_TOP_P = tl.constexpr(Field.TOP_P.value)
_FLAGS = tl.constexpr(Field.FLAGS.value)
_GREEDY = tl.constexpr(Flag.GREEDY.value)
_PENALTIES = tl.constexpr(Flag.PENALTIES.value)
ALL = tl.constexpr(2**SHARE_BITS)  # the whole probability


@triton.jit
def words_of(table, slot):
    return table + slot.to(tl.int64) * _WIDTH


@triton.jit
def word(table, slot, field: tl.constexpr):
    return tl.load(words_of(table, slot) + field)


@triton.jit
def real(table, slot, field: tl.constexpr):
    return word(table, slot, field).to(tl.float64, bitcast=True)


@triton.jit
def temperature_of(table, slot):
    return real(table, slot, _TEMPERATURE).to(tl.float32)


@triton.jit
def is_drawn(table, slot):
    """Whether the row's token is left to chance."""
    return (word(table, slot, _FLAGS) & _GREEDY) == 0


@triton.jit
def is_penalised(table, slot):
    return (word(table, slot, _FLAGS) & _PENALTIES) != 0


@triton.jit
def is_filtered(table, slot):
    """Whether top-k or top-p leave tokens out."""
    return (word(table, slot, _TOP_K) > 0) | (word(table, slot, _TOP_P) < ALL)

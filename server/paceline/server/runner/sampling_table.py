"""What the GPU's sampling kernels know about each slot, as one table of 64-bit words.

One table means one copy to the device for all rows that join in a step. A real number is stored as the bits of its
64-bit float: the kernels round it to fp32 where the slow path in `sampling` does.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..request import SamplingParams
from .noise import SHARE_BITS

MAX_BIAS = 1024
MAX_BANNED = 128
_MASK = 2**64 - 1
_LEAST_TEMPERATURE = 1e-30  # as in `candidates.temperature_tensor`
_HEAD = struct.Struct("<dqqddddQqqqq")


class Variant(enum.IntEnum):
    """What a step's rows need; a step needs the most that one of its rows does."""

    GREEDY = 0
    SAMPLED = 1  # temperature, top-k, top-p, min-p
    FULL = 2  # penalties, bias or bans too
    GUIDED = 3  # masks too


class Field(enum.IntEnum):
    """The places of a slot's words; lists of bias ids, bias amounts and banned ids follow."""

    TEMPERATURE = 0
    TOP_K = 1  # 0: off
    TOP_P = 2  # of 2**62
    MIN_P = 3
    REPETITION = 4
    PRESENCE = 5
    FREQUENCY = 6
    SEED = 7
    MIN_TOKENS = 8
    FLAGS = 9
    BIASES = 10  # how many
    BANS = 11  # how many


class Flag(enum.IntFlag):
    GREEDY = 1
    PENALTIES = 2


BIAS_AT = len(Field)
BANNED_AT = BIAS_AT + 2 * MAX_BIAS


def row_words() -> int:
    """The width of the table."""
    return BANNED_AT + MAX_BANNED


@dataclass(frozen=True, slots=True)
class SetRow:
    """A sequence that takes a slot.

    Args:
        banned: ids that may not be chosen before `min_tokens` tokens were.
        prompt_ids, output_ids: what it has so far, read only where penalties are on.
    """

    params: SamplingParams
    banned: Sequence[int] = ()
    min_tokens: int = 0
    prompt_ids: Sequence[int] = ()
    output_ids: Sequence[int] = ()


def kind(
    params: SamplingParams, banned: Collection[int] = (), min_tokens: int = 0, position: int = 0
) -> Variant:
    """What a row needs at this position."""
    if params.shapes_logits or (banned and position < min_tokens):
        return Variant.FULL
    return Variant.GREEDY if params.greedy else Variant.SAMPLED


def penalised(params: SamplingParams) -> bool:
    """Whether a row's choice depends on the tokens before it."""
    return bool(
        params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
    )


def encode(row: SetRow, vocab_size: int) -> list[tuple[int, bytes]]:
    """A row's words, as runs of (place in the row, bytes).

    Ids past the vocabulary are left out: nothing can choose them. Raises ValueError where a list is too long.
    """
    params = row.params
    bias = [
        (token, amount) for token, amount in dict(params.logit_bias).items() if token < vocab_size
    ]
    banned = [token for token in row.banned if token < vocab_size] if row.min_tokens else []
    if len(bias) > MAX_BIAS or len(banned) > MAX_BANNED:
        raise ValueError(f"{len(bias)} biased and {len(banned)} banned tokens are too many")
    flags = Flag.GREEDY * params.greedy | Flag.PENALTIES * penalised(params)
    head = _HEAD.pack(
        max(params.temperature, _LEAST_TEMPERATURE),
        params.top_k if params.top_k < vocab_size else 0,
        int(params.top_p * 2**SHARE_BITS),
        params.min_p,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
        params.seed & _MASK,
        row.min_tokens,
        flags,
        len(bias),
        len(banned),
    )
    runs = [(0, head)]
    if bias:
        runs.append((BIAS_AT, struct.pack(f"<{len(bias)}q", *(token for token, _ in bias))))
        amounts = struct.pack(f"<{len(bias)}d", *(amount for _, amount in bias))
        runs.append((BIAS_AT + MAX_BIAS, amounts))
    if banned:
        runs.append((BANNED_AT, struct.pack(f"<{len(banned)}q", *banned)))
    return runs

"""A step's way to the device: one int32 line on the host, one copy, the same layout there.

What a step brings is small, so all of it travels at once. The layout follows from the step's `Shape` alone, which is
also what a captured graph is known by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from ..sequence import Sequence
from ..step import Row, Step
from .residents import Residents, Tenants, column

Array = TypeVar("Array")
_ALIGN = 4  # int32s: Triton tells 16-byte aligned pointers apart, and would compile twice
DEVICE_TOKEN = -1  # the slot's last token, which is on the device already
DECODES = -1  # in place of a block's number of tokens: one, which decodes


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a step, padded. Two steps of one shape run the same kernels on the same addresses.

    Args:
        tokens: of the line.
        rows: that get a token.
        blocks: query blocks of attention, of `block_q` tokens at most.
        updates: news of pages that fit.
        splits: of the longest single token's keys.
    """

    tokens: int
    rows: int
    blocks: int
    updates: int
    block_q: int
    splits: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of the `Fields`, in order."""
        t, r = self.tokens, self.rows
        return (r, r, r, t, t, t, 4 * self.blocks, 1 + 3 * self.updates)

    @property
    def length(self) -> int:
        """Elements of the whole line."""
        return sum(_aligned(size) for size in self.sizes)


@dataclass(frozen=True, slots=True)
class Fields(Generic[Array]):
    """Views of one line: numpy arrays on the host, tensors on the device.

    What sampling reads comes first: it lies at the same place in all steps of as many rows, and so they share a graph.

    Attributes:
        sample_at: places in the line whose logits choose tokens; padding looks at place 0.
        sample_slots: whose they are; padding is -1.
        sample_positions: how many tokens the completion has before this one.
        tokens: ids, or `DEVICE_TOKEN`; padding is 0.
        positions, token_slots: of each token; padding has slot -1.
        blocks: flat `[blocks, 4]`, see `triton_attention.PagedStep`.
        updates: how many, then (slot, place, page) each.
    """

    sample_at: Array
    sample_slots: Array
    sample_positions: Array
    tokens: Array
    positions: Array
    token_slots: Array
    blocks: Array
    updates: Array


def split(line: Array, shape: Shape) -> Fields[Array]:
    """The fields of a line. ValueError where it is too short."""
    if len(line) < shape.length:  # type: ignore[arg-type]
        raise ValueError(f"{shape} needs a line of {shape.length}")
    parts, start = [], 0
    for size in shape.sizes:
        parts.append(line[start : start + size])  # type: ignore[index]
        start += _aligned(size)
    return Fields(*parts)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


@dataclass(frozen=True, slots=True, eq=False)
class Singles:
    """The rows of one token of a rectangle, as arrays: a step has hundreds, so each column is read in one go."""

    rows: tuple[Row, ...]
    at: int  # where the first lies in the line
    tenants: Tenants
    starts: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, rows: tuple[Row, ...], at: int, tenants: Tenants) -> Singles:
        starts = [row[1] for row in rows]
        tokens = np.full(len(rows), DEVICE_TOKEN, dtype=np.int32)
        known = list(map(len, tenants.texts))
        if known != starts:
            for i, (start, length) in enumerate(zip(starts, known, strict=True)):
                if start < length:
                    tokens[i] = tenants.texts[i][start]
        # Else the newest token of each is on the device alone, as with a step in flight.
        return cls(rows, at, tenants, column(starts), tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a step brings, before it is laid out.

    Attributes:
        chunks: rows of more than one token, and where each begins in the line.
        order: for every rectangle, the singles or the number of chunks, as the step has them.
        news: table entries (slot, place, page), flat.
        joined: sequences that are new in their slots.
        longest: context of the longest one-token row.
    """

    chunks: list[tuple[Row, int]]
    order: list[Singles | int]
    news: list[int]
    joined: list[Sequence]
    longest: int

    @property
    def decodes_only(self) -> bool:
        return not self.chunks


def read(step: Step, residents: Residents) -> Contents:
    """Looks at every row once; what is listed to be sent counts as sent."""
    contents = Contents([], [], [], [], 1)
    at, longest = 0, 1
    for rectangle in step.rectangles:
        if rectangle.width == 1:
            singles = Singles.of(rectangle.rows, at, residents.tenants_of(rectangle.rows))
            contents.order.append(singles)
            for i in residents.with_news(singles.starts, singles.tenants):
                residents.look(singles.rows[i], contents.news, contents.joined)
            longest = max(longest, int(singles.starts.max()) + 1)
        else:
            contents.order.append(len(rectangle.rows))
            for i, row in enumerate(rectangle.rows):
                contents.chunks.append((row, at + i * rectangle.width))
                residents.look(row, contents.news, contents.joined)
        at += rectangle.area
    return replace(contents, longest=longest)


def fill(fields: Fields[np.ndarray], contents: Contents, block_q: int) -> None:
    """Lays a step out."""
    fields.token_slots.fill(-1)
    fields.tokens.fill(0)
    fields.positions.fill(0)
    blocks = fields.blocks.reshape(-1, 4)
    chunks = iter(contents.chunks)
    block = sampled = 0
    for part in contents.order:
        if isinstance(part, Singles):
            block = _fill_singles(fields, blocks, part, block)
            sampled = _sample_singles(fields, part, sampled)
            continue
        for _ in range(part):
            row, at = next(chunks)
            block = _fill_chunk(fields, blocks, row, at, block, block_q)
            if row.samples:
                fields.sample_at[sampled] = at + row.end - row.start - 1
                fields.sample_slots[sampled] = row.sequence.slot
                fields.sample_positions[sampled] = row.position
                sampled += 1
    blocks[block:] = 0
    fields.sample_at[sampled:] = 0
    fields.sample_slots[sampled:] = -1
    fields.sample_positions[sampled:] = 0
    news = contents.news[: len(fields.updates) - 1]
    fields.updates[0] = len(news) // 3
    fields.updates[1 : 1 + len(news)] = news


def _fill_singles(
    fields: Fields[np.ndarray], blocks: np.ndarray, singles: Singles, block: int
) -> int:
    count, at, slots = len(singles.rows), singles.at, singles.tenants.slots
    here, these = slice(at, at + count), slice(block, block + count)
    fields.tokens[here] = singles.tokens
    fields.positions[here] = singles.starts
    fields.token_slots[here] = slots
    blocks[these, 0] = slots
    blocks[these, 1] = np.arange(at, at + count)
    blocks[these, 2] = DECODES
    blocks[these, 3] = singles.starts
    return block + count


def _sample_singles(fields: Fields[np.ndarray], singles: Singles, sampled: int) -> int:
    count = len(singles.rows)
    samples = np.fromiter([row[3] for row in singles.rows], dtype=bool, count=count).nonzero()[0]
    tenants = singles.tenants
    these = slice(sampled, sampled + len(samples))
    fields.sample_at[these] = singles.at + samples
    fields.sample_slots[these] = tenants.slots[samples]
    fields.sample_positions[these] = (singles.starts + 1 - tenants.prompts)[samples]
    return these.stop


def _fill_chunk(
    fields: Fields[np.ndarray], blocks: np.ndarray, row: Row, at: int, block: int, block_q: int
) -> int:
    """A prompt chunk, whose tokens the host knows: all of it was there before the step."""
    width = row.end - row.start
    here = slice(at, at + width)
    fields.tokens[here] = row.sequence.tokens[row.start : row.end]
    fields.positions[here] = np.arange(row.start, row.end)
    fields.token_slots[here] = row.sequence.slot
    offsets = np.arange(0, width, block_q)
    these = slice(block, block + len(offsets))
    blocks[these, 0] = row.sequence.slot
    blocks[these, 1] = at + offsets
    blocks[these, 2] = np.minimum(block_q, width - offsets)
    blocks[these, 3] = row.start + offsets
    return these.stop

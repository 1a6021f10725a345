"""A step's way to the device: one int32 line on the host, one copy, the same layout there.

What a step brings is small, so all of it travels at once. The layout follows from the step's `Shape` alone, which is
also what a captured graph is known by.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np

from ..sequence import Sequence
from ..step import Row, Step

Array = TypeVar("Array")
_ALIGN = 4  # int32s: Triton tells 16-byte aligned pointers apart, and would compile twice
DEVICE_TOKEN = -1  # the slot's last token, which is on the device already


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
    """The fields of a line that is long enough."""
    parts, start = [], 0
    for size in shape.sizes:
        parts.append(line[start : start + size])  # type: ignore[index]
        start += _aligned(size)
    return Fields(*parts)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


class PageNews:
    """Which pages the device's table knows of each slot, to send only what is new."""

    def __init__(self, slots: int, page_size: int) -> None:
        self._page_size = page_size
        self._tenants: list[tuple[Sequence | None, int]] = [(None, -1)] * slots
        self._sent = [0] * slots

    def of(self, row: Row) -> tuple[bool, list[int]]:
        """Whether the row's sequence is new in its slot, and the table entries to send for it, flat."""
        sequence = row.sequence
        slot = sequence.slot
        fresh = self._tenants[slot] != (sequence, sequence.stay)
        if fresh:
            self._tenants[slot] = (sequence, sequence.stay)
            self._sent[slot] = 0
        entries: list[int] = []
        for place in range(self._sent[slot], row.num_pages):
            entries += (slot, place, sequence.pages[place])
        self._sent[slot] = row.num_pages
        return fresh, entries

    def may_have(self, row: Row) -> bool:
        """A cheap look at a row of one token: False where `of` would find nothing."""
        sequence = row.sequence
        tenant, stay = self._tenants[sequence.slot]
        begins_page = row.start % self._page_size == 0
        return begins_page or tenant is not sequence or stay != sequence.stay


@dataclass(eq=False)
class Contents:
    """What a step brings, before it is laid out: the news of pages, and who is new."""

    step: Step
    news: list[int]
    joined: list[Sequence]

    @cached_property
    def decodes_only(self) -> bool:
        return all(rectangle.width == 1 for rectangle in self.step.rectangles)


def read(step: Step, pages: PageNews) -> Contents:
    """Looks at every row once; the pages it lists count as sent."""
    news: list[int] = []
    joined: list[Sequence] = []
    for rectangle in step.rectangles:
        rows = rectangle.rows
        if rectangle.width == 1:
            rows = tuple(row for row in rows if pages.may_have(row))
        for row in rows:
            fresh, entries = pages.of(row)
            news += entries
            if fresh:
                joined.append(row.sequence)
    return Contents(step, news, joined)


def fill(fields: Fields[np.ndarray], contents: Contents, block_q: int) -> None:
    """Lays a step out."""
    step = contents.step
    fields.token_slots.fill(-1)
    fields.tokens.fill(0)
    fields.positions.fill(0)
    blocks = fields.blocks.reshape(-1, 4)
    at = block = sampled = 0
    for rectangle in step.rectangles:
        rows = rectangle.rows
        if rectangle.width == 1:
            block = _fill_singles(fields, blocks, rows, at, block)
            sampled = _fill_samples(fields, rows, np.arange(at, at + len(rows)), sampled)
        else:
            for i, row in enumerate(rows):
                block = _fill_chunk(fields, blocks, row, at + i * rectangle.width, block, block_q)
            ends = [
                at + i * rectangle.width + row.end - row.start - 1 for i, row in enumerate(rows)
            ]
            sampled = _fill_samples(fields, rows, np.array(ends), sampled)
        at += rectangle.area
    blocks[block:] = 0
    fields.sample_at[sampled:] = 0
    fields.sample_slots[sampled:] = -1
    fields.sample_positions[sampled:] = 0
    news = contents.news[: len(fields.updates) - 1]
    fields.updates[0] = len(news) // 3
    fields.updates[1 : 1 + len(news)] = news


def _fill_singles(
    fields: Fields[np.ndarray], blocks: np.ndarray, rows: tuple[Row, ...], at: int, block: int
) -> int:
    count = len(rows)
    here, these = slice(at, at + count), slice(block, block + count)
    slots = [row.sequence.slot for row in rows]
    starts = [row.start for row in rows]
    fields.tokens[here] = [_token(row) for row in rows]
    fields.positions[here] = starts
    fields.token_slots[here] = slots
    blocks[these, 0] = slots
    blocks[these, 1] = np.arange(at, at + count)
    blocks[these, 2] = 1
    blocks[these, 3] = starts
    return block + count


def _token(row: Row) -> int:
    tokens = row.sequence.tokens
    return tokens[row.start] if row.start < len(tokens) else DEVICE_TOKEN


def _fill_chunk(
    fields: Fields[np.ndarray], blocks: np.ndarray, row: Row, at: int, block: int, block_q: int
) -> int:
    width = row.end - row.start
    known = row.sequence.tokens[row.start : row.end]
    fields.tokens[at : at + len(known)] = known
    fields.tokens[at + len(known) : at + width] = DEVICE_TOKEN
    fields.positions[at : at + width] = np.arange(row.start, row.end)
    fields.token_slots[at : at + width] = row.sequence.slot
    offsets = np.arange(0, width, block_q)
    these = slice(block, block + len(offsets))
    blocks[these, 0] = row.sequence.slot
    blocks[these, 1] = at + offsets
    blocks[these, 2] = np.minimum(block_q, width - offsets)
    blocks[these, 3] = row.start + offsets
    return block + len(offsets)


def _fill_samples(
    fields: Fields[np.ndarray], rows: tuple[Row, ...], places: np.ndarray, sampled: int
) -> int:
    if not all(row.samples for row in rows):
        chosen = [i for i, row in enumerate(rows) if row.samples]
        rows, places = tuple(rows[i] for i in chosen), places[chosen]
    these = slice(sampled, sampled + len(rows))
    fields.sample_at[these] = places
    fields.sample_slots[these] = [row.sequence.slot for row in rows]
    fields.sample_positions[these] = [row.position for row in rows]
    return sampled + len(rows)

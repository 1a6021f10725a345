"""How rows are laid side by side: the padding of a step. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .policy import Policy
from .step import Rectangle, Row


@dataclass(frozen=True, slots=True)
class Buckets:
    """Sizes a step is padded to, so that few shapes occur: compiled code and captured graphs need that.

    Args:
        rows: ascending row counts; more rows than the last are not padded.
        width: prompt chunks are padded to a multiple of so many tokens.
    """

    rows: tuple[int, ...]
    width: int = 16

    def height_for(self, rows: int) -> int:
        place = bisect_left(self.rows, rows)
        return self.rows[place] if place < len(self.rows) else rows

    def width_for(self, tokens: int) -> int:
        return -(-tokens // self.width) * self.width


def decode_rectangle(rows: Sequence[Row], at_least: int, buckets: Buckets) -> Rectangle:
    """One token for each row. A static batch keeps the rows it began with: `at_least`."""
    return Rectangle(tuple(rows), buckets.height_for(at_least), 1)


def prefill_rectangles(
    rows: Sequence[Row], policy: Policy, batch_rows: int, buckets: Buckets
) -> list[Rectangle]:
    """Prompt chunks, as the mode pads them.

    static: one rectangle as wide as the longest and as high as the batch. dynamic: prompts of similar
    length, to a power of two, share one. Otherwise only chunks of equal padded width do, which wastes
    no more than the rounding up.
    """
    if policy.keeps_rows:
        return [
            _rectangle(rows, buckets.height_for(max(batch_rows, len(rows))), buckets)
        ]
    groups: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        tokens = len(row.tokens)
        key = (
            tokens.bit_length() if policy.sorts_by_length else buckets.width_for(tokens)
        )
        groups[key].append(row)
    if policy.sorts_by_length:
        return [
            _rectangle(g, buckets.height_for(len(g)), buckets)
            for _, g in sorted(groups.items())
        ]
    return [_rectangle(g, len(g), buckets) for _, g in sorted(groups.items())]


def _rectangle(rows: Sequence[Row], height: int, buckets: Buckets) -> Rectangle:
    widest = max(len(row.tokens) for row in rows)
    return Rectangle(tuple(rows), height, buckets.width_for(widest))

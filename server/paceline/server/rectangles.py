"""How rows are laid side by side: the padding of a step. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .policy import Policy
from .step import Rectangle, Row


@dataclass(frozen=True, slots=True)
class Buckets:
    """Sizes a step is padded to, so that few shapes occur: compiled code and graphs need that.

    Args:
        rows: ascending row counts; more rows than the last are not padded, with none no rows are.
        width: prompt chunks are padded to a multiple of so many tokens.
        split_gain: page-rows of padding that make it worth to attend to a part of the decoding rows
            in a rectangle of its own; None keeps them together.
        lines: ascending lengths of the whole line of tokens; a longer one than the last is not padded.
    """

    rows: tuple[int, ...]
    width: int = 16
    split_gain: int | None = None
    lines: tuple[int, ...] = ()

    def height_for(self, rows: int) -> int:
        return _round_up(rows, self.rows)

    def line_for(self, tokens: int) -> int:
        return _round_up(tokens, self.lines)

    def uses(self, shapes: Mapping[int, int]) -> dict[int, int]:
        """Steps by bucket, of steps by the length of their line; under 0 those of no bucket's length."""
        found = dict.fromkeys((0, *(self.lines or self.rows)), 0)
        for line, steps in shapes.items():
            found[line if line in found else 0] += steps
        return found

    def width_for(self, tokens: int) -> int:
        return -(-tokens // self.width) * self.width


def _round_up(size: int, buckets: tuple[int, ...]) -> int:
    place = bisect_left(buckets, size)
    return buckets[place] if place < len(buckets) else size


def decode_rectangles(
    rows: Sequence[Row], policy: Policy, batch_rows: int, buckets: Buckets
) -> list[Rectangle]:
    """One token for each row. A static batch keeps the `batch_rows` rows it began with.

    Keys are padded to the longest context of a rectangle, so where shapes are free rows of similar
    context get rectangles of their own. Rows that are padding go to the one with the shortest.
    """
    height = buckets.height_for(max(len(rows), batch_rows))
    if policy.keeps_rows or buckets.split_gain is None:
        return [Rectangle(tuple(rows), height, 1)]
    by_context = sorted(rows, key=lambda row: row.num_pages)
    groups = _split(by_context, buckets.split_gain)
    padding = height - len(rows)
    first = Rectangle(tuple(groups[0]), len(groups[0]) + padding, 1)
    return [first, *(Rectangle(tuple(group), len(group), 1) for group in groups[1:])]


def _split(rows: list[Row], min_gain: int) -> list[list[Row]]:
    """Cuts rows, sorted by pages, where the padding saved is largest, as long as it is worth it."""
    longest = rows[-1].num_pages
    # Cutting before row i pads the i rows below it to their own longest only.
    gains = [i * (longest - rows[i - 1].num_pages) for i in range(1, len(rows))]
    best = max(gains, default=0)
    if best < min_gain:
        return [rows]
    cut = gains.index(best) + 1
    return _split(rows[:cut], min_gain) + _split(rows[cut:], min_gain)


def prefill_rectangles(
    rows: Sequence[Row], policy: Policy, batch_rows: int, buckets: Buckets
) -> list[Rectangle]:
    """Prompt chunks, as the mode pads them.

    static: one rectangle as wide as the longest and as high as the batch. dynamic: prompts of
    similar length, to a power of two, share one. Otherwise only chunks of equal padded width do,
    which wastes no more than the rounding up.
    """
    if policy.keeps_rows:
        return [_rectangle(rows, buckets.height_for(max(batch_rows, len(rows))), buckets)]
    groups: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        tokens = row.end - row.start
        key = tokens.bit_length() if policy.sorts_by_length else buckets.width_for(tokens)
        groups[key].append(row)
    if policy.sorts_by_length:
        return [
            _rectangle(g, buckets.height_for(len(g)), buckets) for _, g in sorted(groups.items())
        ]
    return [_rectangle(g, len(g), buckets) for _, g in sorted(groups.items())]


def _rectangle(rows: Sequence[Row], height: int, buckets: Buckets) -> Rectangle:
    widest = max(row.end - row.start for row in rows)
    return Rectangle(tuple(rows), height, buckets.width_for(widest))

"""Which sizes steps on a GPU are padded to: few, as each is a graph, and close, as padding is work."""

from __future__ import annotations

from collections.abc import Iterator

from ..rectangles import Buckets
from ..step import Step
from .staging import Contents, Shape
from .triton_attention import SPLIT, block_q, splits_for

_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
# Products of large lines are tiled by 128 tokens.
_LINES = (*_ROWS, *range(640, 2049, 128), 2560, 3072, *range(4096, 65537, 2048))
_MIXED_FROM = 16  # shorter lines with prompt chunks in them are padded to this


class Shapes:
    """The shapes of one server.

    Args:
        slots: rows a step may have.
        most_tokens: of a step.
        context: tokens of the longest sequence.
        heads, kv_heads: of the model's attention.
    """

    def __init__(
        self,
        *,
        slots: int,
        most_tokens: int,
        context: int,
        page_size: int,
        heads: int,
        kv_heads: int,
    ) -> None:
        self._slots = slots
        self._page_size = page_size
        self._heads = (heads, kv_heads)
        self.longest = -(-context // page_size) * page_size  # tokens in whole pages
        # The largest batch is a bucket: steps of decoding rows alone are no longer than that.
        self._lines = sorted({*_up_to(_LINES, most_tokens), slots})
        self._rows = _up_to(_ROWS, slots)
        self._shortest_mixed = next((s for s in self._lines if s >= _MIXED_FROM), self._lines[-1])

    @property
    def buckets(self) -> Buckets:
        """What the planner pads lines to."""
        return Buckets(rows=(), width=1, lines=tuple(self._lines))

    @property
    def largest(self) -> Shape:
        """What takes the most memory."""
        return self._mixed(self._lines[-1], self._slots, splits_for(self.longest))

    def usual(self) -> Iterator[Shape]:
        """All but those for the longest contexts of models that have very long ones."""
        most = splits_for(min(self.longest, 16 * SPLIT))
        for splits in sorted({1, most}):
            for tokens in reversed(self._lines):
                if tokens >= _MIXED_FROM:
                    for rows in self._mixed_rows(tokens):
                        yield self._mixed(tokens, rows, splits)
            for rows in reversed(self._rows):
                yield _decode(rows, splits)

    def of(self, step: Step, contents: Contents) -> Shape:
        """The shape of a step, whose line the planner has padded already."""
        splits = splits_for(contents.longest)
        if contents.decodes_only:
            return _decode(step.line, splits)
        tokens = max(step.line, self._shortest_mixed)
        rows = next(r for r in self._mixed_rows(tokens) if r >= len(step.sampling_rows))
        return self._mixed(tokens, rows, splits)

    def _mixed_rows(self, tokens: int) -> list[int]:
        """Sampling rows that lines with prompt chunks are padded to: few, as each is a graph for each length."""
        sizes = sorted({min(rows, self._slots) for rows in (8, 64, self._slots)})
        return [size for i, size in enumerate(sizes) if i == 0 or sizes[i - 1] < tokens]

    def _mixed(self, tokens: int, rows: int, splits: int) -> Shape:
        # Short lines are mostly decoding rows, to which a high tile is of no use.
        size = block_q(*self._heads, tile=64 if tokens > 1024 else 32)
        updates = rows + -(-tokens // self._page_size)
        # Every sequence may end a block early, those that get no token yet too; decoding rows have a block each.
        return Shape(tokens, rows, self._slots + -(-tokens // size), updates, size, splits)


def _decode(rows: int, splits: int) -> Shape:
    return Shape(rows, rows, rows, rows, 1, splits)


def _up_to(buckets: tuple[int, ...], most: int) -> tuple[int, ...]:
    return (*(size for size in buckets if size < most), most)

"""A step without its sequences: what a model has to be told of it, and what travels to other ranks. Immutable."""

from __future__ import annotations

import msgspec

from .step import Row, Step


class BareRow(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive tokens of one sequence from position `start` on; `pages` hold the keys of all up to their end."""

    start: int
    samples: bool
    tokens: tuple[int, ...]
    pages: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @classmethod
    def of(cls, row: Row) -> BareRow:
        return cls(row.start, row.samples, row.tokens, row.pages)


class BareRectangle(msgspec.Struct, frozen=True, array_like=True):
    """Rows computed side by side, padded to `height` rows of `width` tokens."""

    rows: tuple[BareRow, ...]
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width


class BareStep(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Rectangles in a line of `line` tokens, and the places in it whose logits score prompts (see `step.Step`)."""

    rectangles: tuple[BareRectangle, ...]
    line: int
    scored_places: tuple[int, ...]

    @classmethod
    def of(cls, step: Step) -> BareStep:
        """Read at once: tokens and pages are the sequences' own until the next call of the scheduler."""
        rectangles = tuple(
            BareRectangle(tuple([BareRow.of(row) for row in part.rows]), part.height, part.width)
            for part in step.rectangles
        )
        return cls(rectangles, step.line, tuple(step.scored_places))

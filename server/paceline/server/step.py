"""A step: what one call of the model computes, as padded rectangles of tokens. Immutable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .request import TokenLogprobs
from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """Consecutive tokens of one sequence: `tokens[i]` stands at position `start + i`.

    `pages` hold the keys and values of positions 0 .. end - 1, in order. `samples` says whether the
    row reaches the sequence's newest token, so that a next one can be chosen.
    """

    sequence: Sequence
    start: int
    end: int
    tokens: tuple[int, ...]
    pages: tuple[int, ...]
    samples: bool


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rows computed side by side, padded to `height` rows of `width` tokens."""

    rows: tuple[Row, ...]
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Step:
    """One call of the model. The order of `rows` is the order of its results."""

    rectangles: tuple[Rectangle, ...]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for rectangle in self.rectangles for row in rectangle.rows)

    @cached_property
    def sampling_rows(self) -> tuple[Row, ...]:
        """The rows that get a next token, in the order of `rows`."""
        return tuple(row for row in self.rows if row.samples)

    @property
    def real_tokens(self) -> int:
        return sum(row.end - row.start for row in self.rows)

    @property
    def padded_tokens(self) -> int:
        return sum(rectangle.area for rectangle in self.rectangles)

    @property
    def padded_rows(self) -> int:
        return sum(rectangle.height for rectangle in self.rectangles)


@dataclass(frozen=True, slots=True)
class Sample:
    """The next token of one sampling row. `token` is -1 where the model gave nothing to choose from."""

    token: int
    logprobs: TokenLogprobs | None = None

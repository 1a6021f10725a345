"""A step: what one call of the model computes, as padded rectangles of tokens. Immutable."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from .request import TokenLogprobs
from .sequence import Sequence


class Row(NamedTuple):
    """Consecutive tokens of one sequence: those at positions `start` .. `end - 1`.

    `samples` says whether the row reaches the sequence's newest token, so that a next one is chosen.
    The first `num_pages` pages of the sequence hold the keys and values of positions 0 .. end - 1.
    `tokens` and `pages` are read from the sequence, so only between `plan` and the next call of the
    scheduler; a tuple of five is what 256 of them a step can cost.
    """

    sequence: Sequence
    start: int
    end: int
    samples: bool
    num_pages: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that the host knows: all, or all but the last, which is then on the device."""
        return tuple(self.sequence.tokens[self.start : self.end])

    @property
    def pages(self) -> tuple[int, ...]:
        return tuple(self.sequence.pages[: self.num_pages])

    @property
    def scored(self) -> int:
        """How many of its first tokens have a successor in the prompt whose log-probability is asked for."""
        if not self.sequence.prompt_logprobs:
            return 0
        return max(0, min(self.end, self.sequence.num_prompt - 1) - self.start)

    @property
    def position(self) -> int:
        """Index among the output tokens of the token that this row chooses."""
        return self.end - self.sequence.num_prompt


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rows computed side by side, padded to `height` rows of `width` tokens."""

    rows: tuple[Row, ...]
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width

    @property
    def real_tokens(self) -> int:
        if self.width == 1:
            return len(self.rows)
        return sum(row.end - row.start for row in self.rows)


@dataclass(frozen=True)
class Step:
    """One call of the model. The order of `rows` is the order of its results.

    The rectangles, decoding rows first, lie one after the other in a line of tokens; `line` is its
    length after padding, at least the sum of their areas. `scores_prompts` says whether a row is `scored`.
    """

    rectangles: tuple[Rectangle, ...]
    line: int
    scores_prompts: bool = False

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        if len(self.rectangles) == 1:
            return self.rectangles[0].rows
        return tuple(chain.from_iterable(rectangle.rows for rectangle in self.rectangles))

    @cached_property
    def sampling_rows(self) -> tuple[Row, ...]:
        """The rows that get a next token, in the order of `rows`."""
        return tuple([row for row in self.rows if row.samples])

    @cached_property
    def scored_rows(self) -> tuple[tuple[Row, int], ...]:
        """The rows of which prompt tokens are scored, and where each begins in the line."""
        found: list[tuple[Row, int]] = []
        if self.scores_prompts:
            at = 0
            for rectangle in self.rectangles:
                found += [(r, at + i * rectangle.width) for i, r in enumerate(rectangle.rows)]
                at += rectangle.area
        return tuple([(row, place) for row, place in found if row.scored])

    @property
    def scored_places(self) -> list[int]:
        """The places in the line whose logits say how likely the prompt's next token was."""
        return [place for row, at in self.scored_rows for place in range(at, at + row.scored)]

    @property
    def real_tokens(self) -> int:
        return sum(rectangle.real_tokens for rectangle in self.rectangles)

    @property
    def padded_tokens(self) -> int:
        return self.line

    @property
    def padded_rows(self) -> int:
        return sum(rectangle.height for rectangle in self.rectangles)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next tokens of a step, in the order of its sampling rows.

    A token is -1 where the model gave nothing to choose from. `logprobs` is None when nobody asked;
    else it has None for the rows that did not. `prompt_logprobs` has, for each of the step's `scored_rows`, those of
    the prompt tokens after its first `scored` ones.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None] | None = None
    prompt_logprobs: Seq[tuple[Row, list[TokenLogprobs | None]]] = ()

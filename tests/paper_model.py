"""A model on paper: it remembers what each page slot holds and refuses to attend to anything else."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from paceline.server.mock import next_token
from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.sequence import Sequence
from paceline.server.step import Row, Sampled, Step

VOCAB_SIZE = 100


class PaperModel:
    """Computes steps and checks that a row finds exactly its own history in its pages.

    A slot of a page holds the whole text up to its position, as a real key depends on all tokens before
    it. A token that the host has not read back yet is taken from what was chosen for the row's slot.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._held: dict[tuple[int, int], tuple[int, ...]] = {}
        self._newest: dict[int, tuple[int, int]] = {}  # slot -> (position, token)

    def run(self, step: Step) -> Sampled:
        texts = [self._text(row) for row in step.rows]
        slots = [row.sequence.slot for row in step.rows]
        assert len(set(slots)) == len(slots), "a slot is one sequence's"
        # All writes come first, as in a layer: a row may read what another row of the step wrote.
        for row, text in zip(step.rows, texts, strict=True):
            for position in range(row.start, row.end):
                self._held[self._place(row.pages, position)] = text[: position + 1]
        for row, text in zip(step.rows, texts, strict=True):
            for position in range(row.end):
                assert self._held[self._place(row.pages, position)] == text[: position + 1]
        tokens = []
        for row, text in zip(step.rows, texts, strict=True):
            if row.samples:
                tokens.append(_continued(text))
                self._newest[row.sequence.slot] = (row.end, tokens[-1])
        return Sampled(tokens)

    def wipe(self) -> None:
        """Nothing that was written can be read any more."""
        self._held.clear()
        self._newest.clear()

    def _text(self, row: Row) -> tuple[int, ...]:
        """The sequence up to the row's end, as the device knows it."""
        assert 0 <= row.start < row.end, "a row computes something"
        known = tuple(row.sequence.tokens[: row.end])
        assert row.tokens == known[row.start :]
        if len(known) < row.end:
            position, token = self._newest[row.sequence.slot]
            assert position == len(known) == row.end - 1, "one token may be unknown, and no more"
            known += (token,)
        return known

    def _place(self, pages: Seq[int], position: int) -> tuple[int, int]:
        page = pages[position // self._page_size]
        assert page != 0, "a real row may not use the padding page"
        return page, position % self._page_size


def _continued(text: Seq[int]) -> int:
    request = Request("text", tuple(text), SamplingParams(), StoppingParams(1), 0.0)
    return next_token(Sequence(request, 0, 0), VOCAB_SIZE)


def expected_tokens(prompt: Seq[int], count: int) -> tuple[int, ...]:
    """What a prompt is continued with, computed alone."""

    request = Request("alone", tuple(prompt), SamplingParams(), StoppingParams(count), 0.0)
    alone = Sequence(request, 0, 0)
    for _ in range(count):
        alone.tokens.append(next_token(alone, VOCAB_SIZE))
    return tuple(alone.tokens[len(prompt) :])

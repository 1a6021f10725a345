"""A model on paper: it remembers what each page slot holds and refuses to attend to anything else."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from paceline.server.mock import next_token
from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.sequence import Sequence
from paceline.server.step import Sample, Step

VOCAB_SIZE = 100


class PaperModel:
    """Computes steps and checks that a row finds exactly its own history in its pages.

    A slot holds the whole text up to its position, as a real key depends on all tokens before it.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._slots: dict[tuple[int, int], tuple[int, ...]] = {}

    def run(self, step: Step) -> list[Sample]:
        # All writes come first, as in a layer: a row may read what another row of the step wrote.
        for row in step.rows:
            assert row.tokens, "a row computes something"
            assert row.tokens == tuple(row.sequence.tokens[row.start : row.end])
            for position in range(row.start, row.end):
                self._slots[self._slot(row.pages, position)] = self._text(row.sequence, position)
        for row in step.rows:
            for position in range(row.end):
                held = self._slots[self._slot(row.pages, position)]
                assert held == self._text(row.sequence, position)
        return [Sample(next_token(row.sequence, VOCAB_SIZE)) for row in step.sampling_rows]

    def _slot(self, pages: Seq[int], position: int) -> tuple[int, int]:
        page = pages[position // self._page_size]
        assert page != 0, "a real row may not use the padding page"
        return page, position % self._page_size

    @staticmethod
    def _text(sequence: Sequence, position: int) -> tuple[int, ...]:
        return tuple(sequence.tokens[: position + 1])


def expected_tokens(prompt: Seq[int], count: int) -> tuple[int, ...]:
    """What a prompt is continued with, computed alone."""

    request = Request("alone", tuple(prompt), SamplingParams(), StoppingParams(count), 0.0)
    alone = Sequence(request, 0, 0)
    for _ in range(count):
        alone.append(next_token(alone, VOCAB_SIZE), 0.0)
    return tuple(alone.tokens[len(prompt) :])

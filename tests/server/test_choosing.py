"""The short way to a step's tokens agrees with the long one, and leaves to it what it cannot do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.runner.choosing import choose, choose_largest
from paceline.server.sequence import Sequence
from paceline.server.step import Rectangle, Row, Step

GREEDY = SamplingParams(temperature=0.0)
REQUEST = Request("a", (1, 2, 3), GREEDY, StoppingParams(8), 0.0)


def step_of(*requests: Request) -> Step:
    rows = tuple(Row(Sequence(each, 0, 0), 0, 3, True, 1) for each in requests)
    rectangle = Rectangle(rows, len(rows), 3)
    return Step((rectangle,), rectangle.area)


def logits(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((rows, 50)).astype(np.float32)


def test_agrees_with_the_long_way() -> None:
    """Rows that tie take the first; what lies behind the rows is not looked at."""
    step, values = step_of(REQUEST, REQUEST, REQUEST), logits(5)
    values[1, [7, 9]] = 99.0

    found = choose_largest(values, step)

    assert found is not None
    assert found == choose(torch.from_numpy(values[:3]), torch.empty(0), step, lambda _: None)
    assert found.token_ids[1] == 7 and len(found.token_ids) == 3


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, sampling=SamplingParams(temperature=0.5)),
        replace(REQUEST, sampling=replace(GREEDY, repetition_penalty=1.1)),
        replace(REQUEST, sampling=replace(GREEDY, logit_bias=((1, 2.0),))),
        replace(REQUEST, logprobs=0),
        replace(REQUEST, stopping=StoppingParams(8, min_tokens=2, eos_token_ids=frozenset({4}))),
    ],
    ids=["draws", "penalty", "bias", "log-probabilities", "min_tokens"],
)
def test_leaves_to_it(other: Request) -> None:
    """One row that asks for more is enough."""
    assert choose_largest(logits(2), step_of(REQUEST, REQUEST)) is not None
    assert choose_largest(logits(2), step_of(REQUEST, other)) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_leaves_what_is_not_finite(bad: float) -> None:
    """Only a row whose largest logit it is: that row's pages must be healed."""
    values = logits(2)
    values[1, 3] = bad

    assert choose_largest(values, step_of(REQUEST, REQUEST)) is None
    values[1, 3] = -np.inf
    assert choose_largest(values, step_of(REQUEST, REQUEST)) is not None


def test_a_step_that_chooses_nothing() -> None:
    """Prompt chunks alone have no tokens."""
    found = choose_largest(logits(1), Step((), 0))

    assert found is not None and found.token_ids == []

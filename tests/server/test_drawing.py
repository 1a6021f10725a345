"""Inverse-CDF draws in whole numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.server.runner.drawing import draw, part_of, relative_probabilities, to_weights

LAST = 2**62 - 1


@given(st.integers(0, LAST), st.integers(0, 2**62))
def test_part_of_is_exact(total: int, share: int) -> None:
    """The product of two 62-bit integers is not rounded."""
    assert part_of(torch.tensor(total), torch.tensor(share)).item() == total * share >> 62


@pytest.mark.parametrize(("total", "share"), [(LAST, LAST), (LAST, 2**62), (0, LAST), (1, LAST)])
def test_part_of_does_not_overflow(total: int, share: int) -> None:
    """The largest factors fit."""
    assert part_of(torch.tensor(total), torch.tensor(share)).item() == total * share >> 62


def test_a_token_without_weight_is_never_drawn() -> None:
    """At both ends of the noise, places of weight zero are passed over."""
    weights = torch.tensor([[0, 0, 5, 0, 7, 0, 0]]).expand(2, -1)
    assert draw(weights, torch.tensor([0, LAST])).tolist() == [2, 4]


def test_each_weight_gets_its_share() -> None:
    """Shares that step through the total hit each place as often as its weight says."""
    weights = torch.tensor([[3, 0, 1, 4]])
    shares = torch.tensor([(2 * i + 1) * 2**62 // 16 for i in range(8)])
    assert draw(weights.expand(8, -1), shares).tolist() == [0, 0, 0, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("vocab_size", [1, 2, 49_152, 2**18 - 1, 2**18])
def test_weights_of_a_whole_vocabulary_do_not_overflow(vocab_size: int) -> None:
    """Even where all tokens are equally likely, the sum stays below 2**62 and the last token can be drawn."""
    relative, _ = relative_probabilities(torch.zeros(2, vocab_size))
    weights = to_weights(relative, vocab_size)
    assert 0 < sum(weights[0].tolist()) < 2**62
    assert draw(weights, torch.tensor([0, LAST])).tolist() == [0, vocab_size - 1]


def test_weights_lose_less_than_stated() -> None:
    """Probabilities made of weights differ from exact ones by less than the stated total variation."""
    vocab_size = 49_152
    logits = torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(0)).mul_(4)
    relative, _ = relative_probabilities(logits)
    weights = to_weights(relative, vocab_size).double()
    exact = relative.double()
    distance = (weights / weights.sum() - exact / exact.sum()).abs().sum().item() / 2
    assert distance < 2**-30

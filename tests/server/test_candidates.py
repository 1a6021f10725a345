"""Temperature, top-k, top-p and min-p keep what transformers' warpers keep."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import logits_process as hf

from paceline.server.request import SamplingParams
from paceline.server.runner.candidates import (
    first_width,
    next_width,
    select,
    temper,
    temperature_tensor,
)

NO_IDS = torch.LongTensor([[0]])
CPU = torch.device("cpu")


@st.composite
def logits_of_any_shape(draw: st.DrawFn) -> Tensor:
    """One row: large or small, flat or peaked, with many ties or none."""
    vocab = draw(st.sampled_from([1, 2, 20, 300, 1100, 5000]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    logits = torch.randn(1, vocab, generator=generator) * draw(
        st.sampled_from([0.0, 0.3, 2.0, 8.0])
    )
    step = draw(st.sampled_from([None, 0.0625, 1.0]))
    logits = logits if step is None else (logits / step).round() * step
    return logits.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))


def kept(logits: Tensor, params: SamplingParams) -> Tensor:
    """Processed logits [V] with the dropped ones at minus infinity, from ever more candidates as sampling does it."""
    width = first_width(params, logits.shape[-1])
    while not (found := select(logits, [params], width)).complete.item():
        width = next_width(width, logits.shape[-1])
    tempered = temper(logits, temperature_tensor([params], CPU))[0]
    processed = torch.full_like(tempered, -math.inf)
    places = found.ids[0][found.weights[0] > 0]
    processed[places] = tempered[places]
    return processed


def test_temperature_is_transformers() -> None:
    """Tempered logits are bit for bit transformers'."""
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(0)) * 5
    for temperature in (0.1, 0.7, 1.0, 1.3):
        params = [SamplingParams(temperature=temperature)] * 4
        expected = hf.TemperatureLogitsWarper(temperature)(NO_IDS, logits)
        assert torch.equal(temper(logits, temperature_tensor(params, CPU)), expected)


@settings(max_examples=150, deadline=None)
@given(logits_of_any_shape(), st.integers(1, 1200), st.sampled_from([0.3, 1.0, 1.7]))
def test_top_k_is_transformers(logits: Tensor, top_k: int, temperature: float) -> None:
    """Every token as likely as the k-th stays, with its logit unchanged."""
    expected = hf.TemperatureLogitsWarper(temperature)(NO_IDS, logits.float())
    expected = hf.TopKLogitsWarper(top_k)(NO_IDS, expected)[0]
    got = kept(logits, SamplingParams(temperature=temperature, top_k=top_k))
    assert_same(got, expected)


@settings(max_examples=150, deadline=None)
@given(
    logits_of_any_shape(),
    st.floats(0.01, 0.999),
    st.sampled_from([0, 1, 40, 500]),
    st.sampled_from([0.5, 1.0]),
)
def test_top_p_is_transformers(
    logits: Tensor, top_p: float, top_k: int, temperature: float
) -> None:
    """As many tokens of each logit stay, alone or after top-k, but where fp32 sums leave the border in doubt.

    Which of equals stay is not compared: transformers leaves it to an unstable sort.
    """
    before = hf.TemperatureLogitsWarper(temperature)(NO_IDS, logits.float())
    if top_k:
        before = hf.TopKLogitsWarper(top_k)(NO_IDS, before)
    expected = hf.TopPLogitsWarper(top_p)(NO_IDS, before)[0]
    got = kept(logits, SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p))
    assert_same(
        got.sort(descending=True).values,
        expected.sort(descending=True).values,
        in_doubt=near_the_border(before[0], top_p),
    )


@settings(max_examples=100, deadline=None)
@given(logits_of_any_shape(), st.floats(0.001, 1.0), st.sampled_from([5, 80]))
def test_min_p_is_transformers(logits: Tensor, min_p: float, top_k: int) -> None:
    """The same tokens stay, but where fp32 rounding leaves the border in doubt."""
    before = hf.TopKLogitsWarper(top_k)(NO_IDS, logits.float())
    expected = hf.MinPLogitsWarper(min_p)(NO_IDS, before)[0]
    got = kept(logits, SamplingParams(top_k=top_k, min_p=min_p))
    ratios = (before[0] - before.max()).double().exp()
    assert_same(got, expected, in_doubt=(ratios / min_p - 1).abs() < 1e-6)


@pytest.mark.parametrize(
    ("params", "expected"),
    [(SamplingParams(top_k=50), 20_000), (SamplingParams(top_p=0.75), 15_000)],
    ids=["top_k", "top_p"],
)
def test_ties_past_the_candidates_are_found(params: SamplingParams, expected: int) -> None:
    """Where more tokens are equally likely than were looked at, looking goes on; the lowest ids stay."""
    logits = torch.zeros(1, 20_000)
    first = select(logits, [params], first_width(params, 20_000))
    assert first.ids.shape[-1] < 20_000
    assert not first.complete.item()
    assert kept(logits, params).isfinite().nonzero()[:, 0].tolist() == list(range(expected))


def test_candidates_come_in_the_vocabulary_s_order() -> None:
    """The order in which a draw runs through kept candidates does not depend on how they were found."""
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    logits = (logits * 16).round() / 16
    params = [SamplingParams(top_k=40, temperature=0.7)] * 3
    few = select(logits, params, 64)
    everything = select(logits, params, 5000)
    for found in (few, everything):
        assert (found.ids.diff() > 0).all()
    assert few.complete.all()
    for row in range(3):
        of_few, of_everything = few.weights[row] > 0, everything.weights[row] > 0
        assert of_few.sum() >= 40
        assert torch.equal(few.ids[row][of_few], everything.ids[row][of_everything])
        assert torch.equal(few.weights[row][of_few], everything.weights[row][of_everything])


def near_the_border(logits: Tensor, top_p: float) -> Tensor:
    """Ranks before which so nearly top_p lies that fp32 sums may fall on either side."""
    probabilities = logits.double().sort(descending=True).values.softmax(-1)
    return (probabilities.cumsum(-1) - probabilities - top_p).abs() < 1e-5


def assert_same(got: Tensor, expected: Tensor, in_doubt: Tensor | None = None) -> None:
    # A token 2**-46 times as likely as the likeliest may count as impossible.
    doubt = expected.isfinite() & (expected < expected.max() - 30)
    if in_doubt is not None:
        doubt |= in_doubt
    assert torch.equal(got[~doubt], expected[~doubt])

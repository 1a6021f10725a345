"""Choosing tokens: alone or in company, greedy or by chance, whatever the logits hold."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from transformers.generation import logits_process as hf

from paceline.server.request import SamplingParams, TokenLogprobs
from paceline.server.runner.sampling import (
    NO_TOKEN,
    SampleRow,
    sample,
    sample_tokens,
    token_logprobs,
)
from paceline.server.step import Sampled

VOCAB = 3000  # enough for top-k and top-p to look at candidates first
GREEDY = SamplingParams(temperature=0.0)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SPECIAL_PARAMS = [
    GREEDY,
    SamplingParams(),
    SamplingParams(temperature=0.7, min_p=0.05),
    SamplingParams(temperature=0.7, top_k=50),
    SamplingParams(temperature=0.7, top_k=50, top_p=0.9),
    SamplingParams(top_k=700),
    SamplingParams(temperature=0.6, top_p=0.9),
    SamplingParams(temperature=3.0, top_p=0.99),
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(frequency_penalty=0.5, presence_penalty=0.5, top_k=20),
    SamplingParams(logit_bias=((3, 4.0), (5, -100.0))),
]


def random_logits(
    rows: int, vocab: int = VOCAB, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab, generator=generator) * 3).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_greedy_takes_the_first_of_the_largest(dtype: torch.dtype, rows: int) -> None:
    """Greedy choice is transformers': argmax of the fp32 logits, the lowest id among equals."""
    logits = random_logits(rows, dtype=dtype).round().clamp(max=6)
    expected = [min((row == row.max()).nonzero()[:, 0].tolist()) for row in logits]
    assert all(int((row == row.max()).sum()) > 1 for row in logits)
    assert sample(logits, [SampleRow(GREEDY, 0)] * rows).token_ids == expected
    assert logits.float().argmax(-1).tolist() == expected


@pytest.mark.parametrize("params", SPECIAL_PARAMS, ids=str)
def test_a_row_without_usable_logits_harms_nobody(params: SamplingParams) -> None:
    """NaN anywhere, an infinite largest logit or nothing to choose gives no token for that row, and for it alone."""
    clean = random_logits(6)
    rows = [SampleRow(params, i, output_ids=(1, 2), logprobs=2) for i in range(6)]
    expected = sample(clean, rows)
    broken = clean.clone()
    broken[1, 700] = math.nan
    broken[2] = math.nan
    broken[3, 8] = math.inf
    broken[4] = -math.inf
    sampled = sample(broken, rows)
    assert sampled.logprobs is not None and expected.logprobs is not None
    assert sampled.token_ids[1:5] == [NO_TOKEN] * 4
    assert sampled.logprobs[1:5] == [None] * 4
    for place in (0, 5):
        assert sampled.token_ids[place] == expected.token_ids[place] != NO_TOKEN
        assert sampled.logprobs[place] == expected.logprobs[place]


@pytest.mark.parametrize("params", SPECIAL_PARAMS, ids=str)
def test_minus_infinity_is_never_chosen(params: SamplingParams) -> None:
    """Tokens that the model rules out stay out, even where fewer are left than top-k asks for."""
    logits = torch.full((200, VOCAB), -math.inf)
    logits[:, 1000:1007] = 1.0
    rows = [SampleRow(dataclasses.replace(params, seed=i), 0) for i in range(200)]
    tokens = set(sample(logits, rows).token_ids)
    assert tokens == ({1000} if params.greedy else set(range(1000, 1007)))


@st.composite
def sample_rows(draw: st.DrawFn) -> SampleRow:
    params = draw(st.sampled_from(SPECIAL_PARAMS))
    seed = draw(st.integers(0, 2**64 - 1))
    return SampleRow(
        dataclasses.replace(params, seed=seed),
        position=draw(st.integers(0, 100)),
        min_tokens_banned=draw(st.sampled_from([(), (2, 7), (VOCAB + 5,)])),
        prompt_ids=(1, 2, 3),
        output_ids=draw(st.lists(st.integers(0, VOCAB - 1), max_size=4)),
        logprobs=draw(st.sampled_from([None, 0, 3, 20])),
    )


def logprobs_of(sampled: Sampled) -> list[TokenLogprobs | None]:
    """One entry a row, also where nobody asked."""
    return sampled.logprobs or [None] * len(sampled.token_ids)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(sample_rows(), min_size=1, max_size=12),
    st.sampled_from(FLOATS),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_a_token_depends_on_its_row_alone(
    rows: list[SampleRow], dtype: torch.dtype, ties: bool, random: object
) -> None:
    """Alone, or among any mates in any order, a row gets the same token and log-probabilities, bit for bit."""
    logits = random_logits(len(rows), seed=len(rows), dtype=dtype)
    logits = logits.round() if ties else logits
    together = sample(logits, rows)
    alone = [sample(logits[i : i + 1], [row]) for i, row in enumerate(rows)]
    assert together.token_ids == [one.token_ids[0] for one in alone]
    assert logprobs_of(together) == [logprobs_of(one)[0] for one in alone]
    backwards = sample(logits.flip(0), rows[::-1])
    assert together.token_ids == backwards.token_ids[::-1]
    assert logprobs_of(together) == logprobs_of(backwards)[::-1]


def test_torch_s_generator_is_neither_read_nor_moved() -> None:
    """Sampling has its own noise: torch's global generator changes nothing and stays where it was."""
    logits = random_logits(8)
    rows = [SampleRow(SamplingParams(seed=i), i) for i in range(8)]
    tokens = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        tokens.append(sample(logits, rows).token_ids)
        assert torch.equal(before, torch.get_rng_state())
    assert tokens[0] == tokens[1]


def test_seed_and_position_change_the_token() -> None:
    """Another seed, or another position, is another draw."""
    logits = torch.zeros(1, 50_000).expand(64, -1)
    by_seed = sample(logits, [SampleRow(SamplingParams(seed=i), 0) for i in range(64)])
    by_position = sample(logits, [SampleRow(SamplingParams(), i) for i in range(64)])
    assert len(set(by_seed.token_ids)) > 60
    assert len(set(by_position.token_ids)) > 60


def transformers_probabilities(logits: Tensor, row: SampleRow) -> Tensor:
    """What transformers would draw from, by its own processors in the order of `generate`."""
    params = row.params
    ids = torch.LongTensor([[*row.prompt_ids, *row.output_ids]])
    processors = hf.LogitsProcessorList()
    if params.repetition_penalty != 1.0:
        processors.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.logit_bias:
        processors.append(hf.SequenceBiasLogitsProcessor([[[t], b] for t, b in params.logit_bias]))
    processors.append(hf.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(hf.TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        processors.append(hf.TopPLogitsWarper(params.top_p))
    if params.min_p:
        processors.append(hf.MinPLogitsWarper(params.min_p))
    processed = processors(ids, logits.float().clone())
    assert isinstance(processed, Tensor)
    return processed.double().softmax(-1)[0]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=2.5),
        SamplingParams(min_p=0.1),
        SamplingParams(top_k=7),
        SamplingParams(top_p=0.8),
        SamplingParams(temperature=1.5, top_k=12, top_p=0.9, min_p=0.05),
        SamplingParams(repetition_penalty=1.8, logit_bias=((4, 2.0), (9, -3.0)), temperature=1.2),
        SamplingParams(repetition_penalty=0.7, top_p=0.95),
    ],
    ids=str,
)
@pytest.mark.parametrize("vocab", [30, 1500])
def test_frequencies_are_transformers_probabilities(params: SamplingParams, vocab: int) -> None:
    """20,000 draws with fixed seeds pass a chi-square test, and dropped tokens never come."""
    draws = 20_000
    logits = random_logits(1, vocab, seed=5, dtype=torch.float32) * 0.4
    row = SampleRow(params, 3, prompt_ids=(4, 5, 5), output_ids=(6, 6, 20))
    rows = [
        dataclasses.replace(row, params=dataclasses.replace(params, seed=i)) for i in range(draws)
    ]
    tokens = torch.cat(
        [sample_tokens(logits.expand(1000, -1), rows[i : i + 1000]) for i in range(0, draws, 1000)]
    )
    counts = torch.bincount(tokens, minlength=vocab)
    expected = transformers_probabilities(logits, row) * draws
    assert counts[expected == 0].sum() == 0
    rare = expected < 8  # chi-square wants a few in each cell: these share one
    observed_cells = [*counts[~rare].tolist(), int(counts[rare].sum())]
    expected_cells = [*expected[~rare].tolist(), float(expected[rare].sum())]
    if expected_cells[-1] == 0:
        del observed_cells[-1], expected_cells[-1]
    assert len(expected_cells) > 3
    assert stats.chisquare(observed_cells, expected_cells).pvalue > 1e-3


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1e-40),
        SamplingParams(top_p=1e-12),
        SamplingParams(top_k=1),
        SamplingParams(min_p=1.0),
        SamplingParams(top_k=5, min_p=1.0),
        SamplingParams(temperature=1e-3, top_k=5, top_p=0.5, min_p=0.5),
    ],
    ids=str,
)
def test_extreme_parameters_leave_the_likeliest(params: SamplingParams) -> None:
    """However narrow the filter, one token is kept: the likeliest."""
    logits = random_logits(20, dtype=torch.float32)
    rows = [SampleRow(dataclasses.replace(params, seed=i), 0) for i in range(20)]
    assert sample(logits, rows).token_ids == logits.argmax(-1).tolist()


def test_banned_tokens_are_not_chosen() -> None:
    """A token below its minimum is never chosen, whether or not the rest is greedy; unknown ids are ignored."""
    logits = torch.zeros(2, 10)
    logits[:, 4] = 50.0
    logits[:, 6] = 25.0
    rows = [SampleRow(p, 0, min_tokens_banned=(4, 99)) for p in (GREEDY, SamplingParams())]
    assert sample(logits, rows).token_ids == [6, 6]
    everything = SampleRow(SamplingParams(), 0, min_tokens_banned=tuple(range(10)))
    assert sample(logits[:1], [everything]).token_ids == [NO_TOKEN]


def test_logits_stay_as_they_are() -> None:
    """The caller's logits are not changed, so that log-probabilities are the model's own."""
    logits = random_logits(len(SPECIAL_PARAMS), dtype=torch.float32)
    before = logits.clone()
    sample(logits, [SampleRow(p, 0, output_ids=(1, 2), logprobs=1) for p in SPECIAL_PARAMS])
    assert torch.equal(logits, before)


def test_logprobs_are_the_model_s_own() -> None:
    """Log-probabilities ignore penalties, bias and temperature, and come only for rows that ask."""
    logits = random_logits(3)
    biased = SamplingParams(temperature=0.0, logit_bias=((17, 100.0),))
    rows = [
        SampleRow(biased, 0, logprobs=4),
        SampleRow(biased, 0),
        SampleRow(biased, 0, logprobs=0),
    ]
    sampled = sample(logits, rows)
    reference = logits.float().log_softmax(-1)
    first, second, third = logprobs_of(sampled)
    assert sampled.token_ids == [17, 17, 17]
    assert first is not None and second is None and third is not None
    assert first.chosen == reference[0, 17].item()
    assert [value for _, value in first.top] == reference[0].topk(4).values.tolist()
    assert [reference[0, token].item() for token, _ in first.top] == [v for _, v in first.top]
    assert third.chosen == reference[2, 17].item()
    assert third.top == ()


def test_equally_likely_alternatives_come_by_id() -> None:
    """Among equals the lower id is reported first, as greedy choice prefers it."""
    logits = torch.zeros(1, 500)
    logits[0, [30, 10, 20]] = 5.0
    tokens = torch.tensor([10])
    (logprobs,) = token_logprobs(logits, tokens, [SampleRow(GREEDY, 0, logprobs=3)])
    assert logprobs is not None
    assert [token for token, _ in logprobs.top] == [10, 20, 30]


def test_no_rows_give_no_tokens() -> None:
    """A step in which no row is due has nothing to choose."""
    assert sample(torch.zeros(0, 10), []).token_ids == []

"""Penalties, bias and bans against transformers and against their formulas."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from paceline.server.request import SamplingParams
from paceline.server.runner.logits import adjust
from paceline.server.runner.sampling import SampleRow

VOCAB = 50
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=8)
LOGITS = st.lists(
    st.floats(-50, 50, width=32) | st.sampled_from([0.0, -0.0]), min_size=VOCAB, max_size=VOCAB
).map(lambda values: torch.tensor([values]))


@settings(max_examples=100, deadline=None)
@given(LOGITS, TOKENS, TOKENS, st.floats(0.1, 10))
def test_repetition_penalty_is_transformers(
    logits: torch.Tensor, prompt: list[int], output: list[int], penalty: float
) -> None:
    """Every token of prompt and output is penalised once, however often it occurs."""
    ids = torch.tensor([[*prompt, *output]], dtype=torch.int64)
    expected = hf.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    params = SamplingParams(repetition_penalty=penalty)
    adjust(logits, [SampleRow(params, 0, prompt_ids=prompt, output_ids=output)])
    assert torch.equal(logits, expected)


@settings(max_examples=50, deadline=None)
@given(LOGITS, st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), min_size=1))
def test_bias_is_transformers(logits: torch.Tensor, bias: dict[int, float]) -> None:
    """A bias is added to single logits."""
    processor = hf.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])
    expected = processor(torch.zeros(1, 1, dtype=torch.int64), logits.clone())
    adjust(logits, [SampleRow(SamplingParams(logit_bias=tuple(bias.items())), 0)])
    assert torch.equal(logits, expected)


@settings(max_examples=50, deadline=None)
@given(LOGITS, TOKENS, st.floats(-2, 2), st.floats(-2, 2), st.floats(-10, 10))
def test_presence_and_frequency_count_output_only(
    logits: torch.Tensor, output: list[int], presence: float, frequency: float, bias: float
) -> None:
    """OpenAI's formula over the generated tokens; the prompt does not count; a bias adds up with it."""
    expected = logits[0].tolist()
    for token, count in Counter(output).items():
        expected[token] -= count * frequency + presence
    expected[1] += bias
    params = SamplingParams(
        presence_penalty=presence, frequency_penalty=frequency, logit_bias=((1, bias),)
    )
    adjust(logits, [SampleRow(params, 0, prompt_ids=(2, 3), output_ids=output)])
    torch.testing.assert_close(logits[0], torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_order_is_repetition_then_additions_then_bans() -> None:
    """A logit of 4 is halved, then lowered by 1, and a ban beats any bias."""
    logits = torch.tensor([[4.0, 4.0, 4.0]])
    params = SamplingParams(
        repetition_penalty=2.0, presence_penalty=1.0, logit_bias=((1, 100.0), (2, 100.0))
    )
    adjust(logits, [SampleRow(params, 0, min_tokens_banned=(2,), output_ids=(0,))])
    assert logits.tolist() == [[1.0, 104.0, -torch.inf]]


def test_rows_have_their_own_edits() -> None:
    """An edit reaches its row alone, and tokens past the vocabulary reach none."""
    logits = torch.zeros(3, 5)
    rows = [
        SampleRow(SamplingParams(logit_bias=((1, 2.0), (7, 9.0))), 0),
        SampleRow(SamplingParams(), 0, min_tokens_banned=(5, 2)),
        SampleRow(SamplingParams(frequency_penalty=0.5), 0, output_ids=(4, 4)),
    ]
    adjust(logits, rows)
    expected = torch.zeros(3, 5)
    expected[0, 1], expected[1, 2], expected[2, 4] = 2.0, -torch.inf, -1.0
    assert torch.equal(logits, expected)


def test_an_extreme_penalty_stays_finite() -> None:
    """A tiny repetition penalty makes a logit the largest number, not infinity, which would fail the row."""
    logits = torch.tensor([[10.0, 0.0]])
    adjust(logits, [SampleRow(SamplingParams(repetition_penalty=1e-38), 0, output_ids=(0,))])
    assert logits[0, 0].item() == torch.finfo(torch.float32).max

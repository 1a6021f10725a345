"""Presets: lengths near their source, shares as told, factors that are stated."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest

from paceline.loadgen.english import TAG_TOKENS, TOKENS_PER_WORD
from paceline.loadgen.lengths import (
    AZURE_CODE_INPUT,
    AZURE_CODE_OUTPUT,
    AZURE_CONV_INPUT,
    AZURE_CONV_OUTPUT,
)
from paceline.loadgen.workload import Prompt, first_prompts, make_workload


def tokens(prompt: Prompt) -> float:
    """About as many tokens as the prompt has: its tag, then words."""
    return TAG_TOKENS + TOKENS_PER_WORD * (len((prompt.text or "").split()) - 1)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("chat", AZURE_CONV_INPUT, AZURE_CONV_OUTPUT),
        ("burst", AZURE_CONV_INPUT, AZURE_CONV_OUTPUT),
        ("code", AZURE_CODE_INPUT, AZURE_CODE_OUTPUT),
    ],
)
def test_quantiles_are_those_of_the_trace(
    name: str, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    """With a length factor of 0.1, p10, p25, p50 and p75 of prompts and answers are a tenth of the trace's."""
    prompts = list(first_prompts(make_workload(name, length_scale=0.1), 3000))
    made = statistics.quantiles((tokens(p) for p in prompts), n=20)
    asked = statistics.quantiles((p.max_tokens for p in prompts), n=20)
    for at, place in enumerate((1, 4, 9, 14), 1):  # of 19 cuts: p10, p25, p50, p75
        assert made[place] == pytest.approx(inputs[at] / 10, rel=0.12, abs=8)
        assert asked[place] == pytest.approx(outputs[at] / 10, rel=0.12, abs=1)


def test_a_trace_at_its_own_lengths() -> None:
    """A length factor of 1 asks for the trace's own tokens, clipped at its p99."""
    prompts = list(first_prompts(make_workload("chat", length_scale=1.0), 600))
    assert max(p.max_tokens for p in prompts) == AZURE_CONV_OUTPUT[-2]
    below = sum(p.max_tokens < AZURE_CONV_OUTPUT[3] for p in prompts)
    assert below / 600 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("name", ["chat", "sharegpt", "mixed", "shared-prefix", "multi-turn"])
def test_lengths_fit_the_context(name: str) -> None:
    """In a small context the longest request fits, the shape is kept, and the factor is stated."""
    workload, usual = make_workload(name, context_tokens=200), make_workload(name)
    (factors,) = workload.factors.values()
    (usual_factors,) = usual.factors.values()
    assert usual_factors["fit"] == 1.0 and "to fit" not in usual.notes
    assert 0 < factors["fit"] < 1 and f"x {factors['fit']:g} to fit 200 tokens" in workload.notes
    for prompt in first_prompts(workload, 500):
        turns = [prompt.text or "", *(turn.text for turn in prompt.turns)]
        made = prompt.max_tokens + sum(turn.max_tokens for turn in prompt.turns)
        assert sum(len(text.split()) for text in turns) * TOKENS_PER_WORD + made <= 200
    mean, usual_mean = (
        statistics.mean(p.max_tokens for p in first_prompts(one, 500)) for one in (workload, usual)
    )
    assert mean == pytest.approx(usual_mean * factors["fit"], rel=0.1)


def test_told_lengths_are_not_made_to_fit() -> None:
    """`fixed:PROMPT:OUTPUT` asks for just that, whatever the context: the server is to say that it cannot."""
    assert make_workload("fixed:10:900", context_tokens=200).prompt(0).max_tokens == 900


def test_fixed_with_a_range() -> None:
    """`fixed:IN:OUT:±0.2` draws evenly within 20 % of both lengths, `20%` means the same."""
    prompts = list(first_prompts(make_workload("fixed:100:50:±0.2"), 2000))
    counts = Counter(p.max_tokens for p in prompts)
    assert set(counts) == set(range(40, 61))
    assert max(counts.values()) < 2 * min(counts.values())
    lengths = [tokens(p) for p in prompts]
    assert 79 <= min(lengths) <= 81 and 119 <= max(lengths) <= 121
    assert list(first_prompts(make_workload("fixed:100:50:20%"), 2000)) == prompts


def test_shared_prefixes_are_popular_as_zipf_says() -> None:
    """Five prefixes are asked for as 1 : 1/2 : 1/3 : 1/4 : 1/5; a whole group shares its prefix and nothing else."""
    prompts = list(first_prompts(make_workload("shared-prefix:5:100"), 5000))
    groups = Counter((p.text or "")[:7] for p in prompts)
    shares = [count / 5000 for _, count in groups.most_common()]
    whole = sum(1 / rank for rank in range(1, 6))
    assert shares == pytest.approx([1 / rank / whole for rank in range(1, 6)], abs=0.02)
    prefix_words = 1 + round((100 - 7) / TOKENS_PER_WORD)
    for tag in groups:
        texts = [(p.text or "").split() for p in prompts if (p.text or "").startswith(tag)]
        assert len({tuple(text[:prefix_words]) for text in texts}) == 1
        assert len({text[prefix_words] for text in texts}) == len(texts)


def test_each_level_has_prefixes_of_its_own() -> None:
    """No prefix of one level is in the cache of the next."""
    workload = make_workload("shared-prefix")
    tags = [{(p.text or "")[:7] for p in first_prompts(workload, 100, level)} for level in range(3)]
    assert sum(map(len, tags)) == len(set.union(*tags))


def test_burst_is_chat_for_bursts() -> None:
    """`burst` says which arrivals it is meant for; others leave that open."""
    assert make_workload("burst").arrival == "gamma:0.25"
    assert make_workload("chat").arrival == ""


def test_a_conversation_carries_all_that_was_said() -> None:
    """Each turn begins with the turn before and the server's answer, and the last one has no next."""
    prompt = make_workload("multi-turn:3").prompt(4)
    assert (prompt.id, prompt.label, len(prompt.turns)) == ("multi-turn-00004", "turn 1", 2)
    seen = [prompt]
    for answer in (" first answer", " second answer"):
        following = seen[-1].next_turn(answer)
        assert following is not None
        assert (following.text or "").startswith(f"{seen[-1].text}{answer}\nUser: ")
        seen.append(following)
    assert [p.id for p in seen[1:]] == ["multi-turn-00004.t2", "multi-turn-00004.t3"]
    assert [p.label for p in seen] == ["turn 1", "turn 2", "turn 3"]
    assert seen[-1].next_turn("more") is None
    assert (seen[-1].text or "").count("User: ") == (seen[-1].text or "").count("Assistant:") == 3


def test_a_conversation_of_chat_messages() -> None:
    """With `chat` the same turns are messages for the model's own template."""
    plain, chat = (
        make_workload("multi-turn:2").prompt(0),
        make_workload("multi-turn:2:chat").prompt(0),
    )
    assert chat.text is None and chat.messages is not None
    assert plain.text == f"{chat.messages[0][1]}\nAssistant:".replace(". ", ". User: ", 1)
    following = chat.next_turn("yes")
    assert following is not None and following.messages is not None
    assert [role for role, _ in following.messages] == ["user", "assistant", "user"]

"""Log-probabilities of prompts, on every runner, beside transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from guided_runs import Answers, make, request, run, true_logprobs
from paceline.server.config import Mode
from tiny_models import greedy_reference, tiny_model

PROMPTS = [[(7 * i + 3 * j * j) % 256 for j in range(n)] for i, n in enumerate((1, 33, 9, 50))]
KINDS = ("torch", "openvino")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted models are kept in a folder of the test's own."""
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path))


def check(answers: Answers, name: str, prompt: list[int], alternatives: int) -> None:
    """One entry for each prompt token, with the first token's output, as transformers has them."""
    _, model = tiny_model("llama")
    first, *others = answers.outputs[name, 0]
    start, *entries = first.prompt_logprobs
    assert start is None
    assert not any(output.prompt_logprobs for output in others)
    assert len(entries) == len(prompt) - 1
    expected = true_logprobs(model, prompt)
    for row, token, entry in zip(expected, prompt[1:], entries, strict=False):
        assert entry is not None
        assert entry.chosen == pytest.approx(row[token].item(), abs=2e-4)
        values = [value for _, value in entry.top]
        assert values == pytest.approx(row.topk(alternatives).values.tolist(), abs=2e-4)
        for token_id, value in entry.top:
            assert value == pytest.approx(row[token_id].item(), abs=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_transformers_own(kind: str) -> None:
    """In chunks, beside rows that do not ask, and with a prefix in the cache; and nobody's tokens change."""
    runner = make(kind)
    repeated = [*PROMPTS[3], 5]
    requests = [request(f"plain {i}", p, max_tokens=3) for i, p in enumerate(PROMPTS)]
    requests += [
        request(f"asks {i}", p, max_tokens=3, prompt_logprobs=2 * i) for i, p in enumerate(PROMPTS)
    ]
    requests.append(request("repeated", repeated, max_tokens=2, prompt_logprobs=1, n=2))
    page_size = 32 if kind == "openvino" else 4

    answers = run(runner, requests, None, max_batch_size=4, max_step_tokens=24, page_size=page_size)

    _, model = tiny_model("llama")
    for i, prompt in enumerate(PROMPTS):
        expected = greedy_reference(model, prompt, 3, ignore_eos=False)
        assert answers.tokens(f"plain {i}") == answers.tokens(f"asks {i}") == expected
        assert answers.outputs[f"plain {i}", 0][0].prompt_logprobs == ()
        check(answers, f"asks {i}", prompt, 2 * i)
    check(answers, "repeated", repeated, 1)
    assert answers.outputs["repeated", 1][0].prompt_logprobs == ()  # once a request
    asked = answers.outputs["asks 3", 0][-1].finish
    assert asked is not None and asked.usage.cached_tokens == 0


def test_the_gpus_runner_scores_too() -> None:
    """Beside a row that decodes, with steps launched ahead; nobody's tokens change."""
    requests = [
        request("plain", PROMPTS[0], max_tokens=3),
        request("asks", PROMPTS[2], max_tokens=1, prompt_logprobs=2),
    ]

    answers = run(make("paged", max_step_tokens=16), requests, max_step_tokens=16)

    _, model = tiny_model("llama")
    check(answers, "asks", PROMPTS[2], 2)
    assert answers.tokens("plain") == greedy_reference(model, PROMPTS[0], 3, ignore_eos=False)
    assert answers.tokens("asks") == greedy_reference(model, PROMPTS[2], 1, ignore_eos=False)


@pytest.mark.parametrize("mode", list(Mode))
def test_batching_and_preemption_change_nothing(mode: Mode) -> None:
    """A prompt that lost its pages half way is scored from its beginning again."""
    requests = [
        request(str(i), prompt, prompt_logprobs=1, max_tokens=30, ignore_eos=True)
        for i, prompt in enumerate(PROMPTS * 2)
    ]

    answers = run(make("torch"), requests, 24, mode=mode)

    for i, prompt in enumerate(PROMPTS * 2):
        check(answers, str(i), prompt, 1)
    if mode is Mode.CONTINUOUS:
        assert answers.load.preemptions > 0


def test_deterministic_mode() -> None:
    """Chunks of one shape are scored as well."""
    settings = {"deterministic": True, "prefill_chunk": 16}
    requests = [request(str(i), p, prompt_logprobs=1) for i, p in enumerate(PROMPTS)]

    answers = run(make("torch", **settings), requests, **settings)

    for i, prompt in enumerate(PROMPTS):
        check(answers, str(i), prompt, 1)

"""Guided decoding on the reference runner: what comes out, and what it does to its neighbours."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_runs import (
    CHOICE,
    GREEDY,
    REGEX,
    SCHEMA,
    guides,
    loaded,
    make,
    naive,
    request,
    run,
    tokenizer,
    true_logprobs,
)
from paceline.server.config import EngineConfig, Mode, ModelConfig
from paceline.server.errors import InvalidRequest
from paceline.server.guidance import Guides
from paceline.server.request import Constraint, SamplingParams
from paceline.server.runner.torch_runner import TorchRunner
from tiny_models import EOS, VOCAB_SIZE, greedy_reference, tiny_model

CONSTRAINTS = (CHOICE, REGEX, SCHEMA)
PROMPTS = [[7 * i + 3 * j for j in range(5 + 6 * i)] for i in range(6)]


@cache
def runner() -> TorchRunner:
    config = EngineConfig(max_batch_size=6, page_size=4)
    made = TorchRunner(loaded(), config, ModelConfig(kv_cache_mib=1))
    return made


@cache
def free_tokens() -> list[list[int]]:
    _, model = tiny_model("llama")
    return [greedy_reference(model, prompt, 24) for prompt in PROMPTS]


@cache
def guided_tokens() -> list[list[int]]:
    _, model = tiny_model("llama")
    return [naive(model, prompt, CONSTRAINTS[i % 3], 24) for i, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("mode", list(Mode))
def test_greedy_equals_a_naive_loop_and_neighbours_do_not_change(mode: Mode) -> None:
    """Constrained rows get what a loop with a mask gets, unconstrained ones what they get without them."""
    requests = []
    for i, prompt in enumerate(PROMPTS):
        requests.append(request(f"guided {i}", prompt, CONSTRAINTS[i % 3]))
        requests.append(request(f"free {i}", prompt, ignore_eos=True))

    answers = run(runner(), requests, 41, mode=mode, max_batch_size=6, max_step_tokens=32)

    for i in range(len(PROMPTS)):
        assert answers.tokens(f"guided {i}") == guided_tokens()[i]
        assert answers.tokens(f"free {i}") == free_tokens()[i]
    if mode is Mode.CONTINUOUS:
        assert answers.load.preemptions > 0


@pytest.mark.parametrize("kind", ["openvino", "paged"])
def test_other_runners_follow_constraints(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's runner, and the GPU's with steps launched ahead: constrained, drawn and free rows together."""
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path))
    penalties = SamplingParams(temperature=0.0, frequency_penalty=1.5, logit_bias=((100, 3.0),))
    drawn = SamplingParams(temperature=2.0, top_k=9, seed=5)
    guided = request("guided", PROMPTS[1], REGEX, max_tokens=5)
    others = [
        request("free", PROMPTS[0], ignore_eos=True, max_tokens=5),
        request("penalties", PROMPTS[0], REGEX, sampling=penalties, max_tokens=5),
        request("drawn", PROMPTS[0], CHOICE, sampling=drawn, max_tokens=5, min_tokens=4),
    ]
    page_size = 32 if kind == "openvino" else 4

    answers = run(make(kind), [guided, *others], page_size=page_size)

    reference = run(runner(), others, max_batch_size=6)
    assert answers.tokens("guided") == guided_tokens()[1][:5]
    for other in others:
        assert answers.tokens(other.id) == reference.tokens(other.id), other.id


def test_deterministic_mode_follows_constraints() -> None:
    """Rows that are decoded again after a preemption go on where their guide stood."""
    requests = [request(str(i), p, CONSTRAINTS[i % 3]) for i, p in enumerate(PROMPTS)]
    config = EngineConfig(max_batch_size=6, page_size=4, deterministic=True, prefill_chunk=8)
    own = TorchRunner(loaded(), config, ModelConfig(kv_cache_mib=1))

    answers = run(own, requests, 18, max_batch_size=6, deterministic=True, prefill_chunk=8)

    assert answers.load.preemptions > 0
    for i in range(len(PROMPTS)):
        assert answers.tokens(str(i)) == guided_tokens()[i]


def test_drawn_completions_match_and_depend_on_their_seed_alone() -> None:
    """With temperature, filters, penalties, bias and n, each completion matches, and is the same alone."""
    pattern = "[a-z]{4,12}(, [a-z]{4,12}){0,2}"
    constraint = Constraint("regex", (pattern,))
    samplings = [
        SamplingParams(temperature=1.5, seed=11),
        SamplingParams(temperature=1.0, top_k=5, seed=12),
        SamplingParams(temperature=0.8, top_p=0.5, repetition_penalty=1.3, seed=13),
        SamplingParams(temperature=2.0, min_p=0.05, logit_bias=((EOS, -3.0),), seed=14),
        SamplingParams(temperature=0.0, frequency_penalty=1.5, seed=15),
    ]
    requests = [
        request(str(i), PROMPTS[i], constraint, sampling=sampling, n=3, max_tokens=60)
        for i, sampling in enumerate(samplings)
    ]

    together = run(runner(), requests, max_batch_size=6)

    for i, each in enumerate(requests):
        alone = run(runner(), [each], max_batch_size=6)
        for index in range(3):
            text = together.text(str(i), index)
            assert re.fullmatch(pattern, text), text
            assert together.reason(str(i), index) == "eos"
            assert together.tokens(str(i), index) == alone.tokens(str(i), index)


def test_the_end_of_a_grammar_wins_over_limits() -> None:
    """`ignore_eos` and `min_tokens` hold the end back as long as anything else may come, and no longer."""
    constraint = Constraint("regex", ("a{1,5}",))
    requests = [
        request("ignoring", [65], constraint, ignore_eos=True),
        request("min", [65], constraint, min_tokens=20),
        request("short", [65], constraint, max_tokens=3, ignore_eos=True),
    ]

    answers = run(runner(), requests, max_batch_size=6)

    assert (answers.text("ignoring"), answers.reason("ignoring")) == ("aaaaa", "eos")
    assert (answers.text("min"), answers.reason("min")) == ("aaaaa", "eos")
    assert (answers.text("short"), answers.reason("short")) == ("aaa", "max_tokens")


def test_logprobs_are_the_models_own() -> None:
    """A constrained token is reported with its probability before the mask, like any other."""
    _, model = tiny_model("llama")
    answers = run(runner(), [request("r", PROMPTS[2], REGEX, logprobs=2)], max_batch_size=6)

    made = answers.tokens("r")
    expected = true_logprobs(model, PROMPTS[2] + made)[len(PROMPTS[2]) - 1 :]
    entries = [entry for output in answers.outputs["r", 0] for entry in output.logprobs]
    for row, token, entry in zip(expected, made, entries, strict=False):
        assert entry.chosen == pytest.approx(row[token].item(), abs=1e-4)
        assert [t for t, _ in entry.top] == row.topk(2).indices.tolist()
    assert len(entries) == len(made)


_strings = st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 6))
_leaves = st.one_of(
    _strings,
    st.builds(
        lambda low, width: {"type": "integer", "minimum": low, "maximum": low + width},
        st.integers(-500, 500),
        st.integers(0, 2000),
    ),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
    st.lists(
        st.one_of(st.text(max_size=5), st.integers(-9, 99), st.none()), min_size=1, max_size=3
    ).map(lambda values: {"enum": values}),
)


def _object(fields: dict[str, Any], required: int) -> dict[str, Any]:
    names = list(fields)
    return {
        "type": "object",
        "properties": fields,
        "required": names[:required],
        "additionalProperties": False,
    }


_schemas = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(
            _object,
            st.dictionaries(st.text('abcdé"\\', min_size=1, max_size=4), inner, max_size=3),
            st.integers(0, 3),
        ),
        st.builds(
            lambda items, most: {"type": "array", "items": items, "maxItems": most},
            inner,
            st.integers(0, 3),
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"anyOf": parts}),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(schema=_schemas, seed=st.integers(0, 2**32 - 1))
def test_whatever_is_allowed_is_an_instance(schema: dict[str, Any], seed: int) -> None:
    """Any walk through the masks ends in JSON of the schema."""
    rng = np.random.default_rng(seed)
    guide = guides().open(Constraint("json_schema", (json.dumps(schema),)))
    ids: list[int] = []
    while EOS not in ids:
        bits = np.unpackbits(guide.mask().view(np.uint8), bitorder="little")
        ids.append(int(rng.choice(np.flatnonzero(bits))))
        guide.accept(ids[-1])
        assert len(ids) < 2000

    value = json.loads(tokenizer().decode(ids))
    jsonschema.validate(value, schema)


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (Constraint("regex", ("a(b",)), "unclosed group"),
        (Constraint("regex", ("(a)(?=b)",)), "look-around, including look-ahead"),
        (Constraint("regex", ("a{100000}",)), "at most 2000 repeats"),
        (Constraint("json_schema", ("{",)), "EOF while parsing"),
        (Constraint("json_schema", ("[" * 9000,)), "recursion limit"),
        (Constraint("json_schema", ('{"type": "strin"}',)), "Invalid type: strin"),
        (Constraint("json_schema", ('{"unevaluatedItems": false}',)), "Unimplemented keys"),
        (Constraint("json_schema", ('{"$ref": "http://example.org/a"}',)), "not present"),
        (Constraint("json_schema", ("false",)), "no JSON is an instance"),
    ],
)
def test_a_wrong_constraint_is_refused_in_one_line(constraint: Constraint, reason: str) -> None:
    """The field is named, and the library's reason comes without its pictures."""
    with pytest.raises(InvalidRequest) as caught:
        guides().check(constraint)

    (violation,) = caught.value.violations
    assert violation.field == f"generation.constraint.{constraint.kind}"
    assert reason in violation.description
    assert "\n" not in violation.description
    assert len(violation.description) <= 200


@pytest.mark.parametrize("option", ["a😀\x07\x7f", "\u2028/\\\"'", " \t\n", "|()*.{", "%x"])
def test_options_are_taken_to_the_letter(option: str) -> None:
    """Whatever characters an option has, it is what comes out."""
    guide = guides().open(Constraint("choice", (option,)))
    for token in tokenizer().encode(option):
        assert guide.mask()[token // 32] >> token % 32 & 1
        guide.accept(token)

    assert np.flatnonzero(np.unpackbits(guide.mask().view(np.uint8), bitorder="little")) == [EOS]


def test_masks_fit_vocabularies_of_other_sizes() -> None:
    """A model may have more logits than its tokenizer has tokens, or fewer; all its ends count."""
    for size in (VOCAB_SIZE + 100, VOCAB_SIZE - 1):
        several = Guides(tokenizer(), size, [EOS, 255])
        guide = several.open(Constraint("regex", ("a?",)))
        bits = np.unpackbits(guide.mask().view(np.uint8), bitorder="little")

        assert len(guide.mask()) == -(-size // 32)
        assert np.flatnonzero(bits).tolist() == [97, 255, EOS]


def test_each_guide_goes_its_own_way() -> None:
    """What is kept of a constraint stands at its beginning, whatever those who got it have accepted."""
    several = Guides(tokenizer(), VOCAB_SIZE, [EOS])
    constraint = Constraint("regex", ("ab",))
    assert several.known(constraint) is None
    first = several.open(constraint)
    beginning = first.mask()
    first.accept(ord("a"))
    second = several.known(constraint)
    assert second is not None
    second.accept(ord("a"))
    assert (several.open(constraint).mask() == beginning).all()
    assert (second.mask() != beginning).any()


def test_models_that_cannot_end_have_no_guides() -> None:
    """Without an end-of-sequence token among the logits nothing can be guided."""
    assert Guides.of(tokenizer(), VOCAB_SIZE, []) is None
    assert Guides.of(tokenizer(), VOCAB_SIZE, [VOCAB_SIZE]) is None
    assert Guides.of(tokenizer(), VOCAB_SIZE, [EOS]) is not None


def test_sampling_knows_masks() -> None:
    """The mask comes before penalties and bias, and other rows of the batch draw the same without it."""
    from paceline.server.runner.sampling import SampleRow, sample

    logits = torch.randn(3, 70, generator=torch.Generator().manual_seed(1))
    mask = np.zeros(3, dtype=np.uint32)
    mask[1] = 1 << 31 | 1 << 2  # tokens 34 and 63
    drawn = SamplingParams(temperature=3.0, logit_bias=((5, 100.0), (34, -100.0)), seed=3)
    rows = [SampleRow(GREEDY, 0, mask=mask), SampleRow(drawn, 0, mask=mask), SampleRow(GREEDY, 0)]

    tokens = sample(logits, rows).token_ids

    assert tokens[0] == max(34, 63, key=lambda token: logits[0, token].item())
    assert tokens[1] == 63
    assert tokens[2] == sample(logits[2:], rows[2:]).token_ids[0]

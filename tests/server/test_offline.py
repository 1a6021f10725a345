"""Lines of the offline format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paceline.server.offline import Line, entries
from paceline.server.request import Constraint


def one(value: Any) -> Line | str:
    """What becomes of a single line: the request, or the problem."""
    (entry,) = entries([value if isinstance(value, bytes) else json.dumps(value).encode()])
    return entry.request


def test_a_bare_prompt_takes_the_service_defaults() -> None:
    """Temperature 1, end-of-sequence respected, no filters, the given seed where the line has none."""
    line = one({"prompt": "Hello"})
    assert isinstance(line, Line)
    assert line.sampling(seed=5).temperature == 1.0
    assert line.sampling(seed=5).seed == 5
    assert not line.sampling(seed=5).filters
    assert line.stopping([2, 3]).eos_token_ids == {2, 3}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"choice": ["a", "b"]}, Constraint("choice", ("a", "b"))),
        ({"regex": "a+"}, Constraint("regex", ("a+",))),
        ({"json_schema": {"type": "null"}}, Constraint("json_schema", ('{"type": "null"}',))),
        ({"json_schema": "true"}, Constraint("json_schema", ("true",))),
        ({}, None),
    ],
)
def test_constraints(fields: dict[str, Any], expected: Constraint | None) -> None:
    """A line may say what its completion must be."""
    line = one({"prompt": "x"} | fields)
    assert isinstance(line, Line)
    assert line.constraint() == expected


def test_one_constraint_is_enough() -> None:
    """Two kinds at once are a mistake."""
    assert "at most one of choice, regex" in str(
        one({"prompt": "x", "regex": "a", "choice": ["a"]})
    )


def test_every_field_arrives() -> None:
    """Each field of a line is where the engine looks for it."""
    line = one(
        {
            "prompt_ids": [1, 2],
            "max_tokens": 9,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [7],
            "temperature": 0.5,
            "top_k": 4,
            "top_p": 0.9,
            "min_p": 0.1,
            "repetition_penalty": 1.2,
            "presence_penalty": 0.3,
            "frequency_penalty": -0.4,
            "logit_bias": {"11": -100, "3": 2.5},
            "seed": 2**64 - 1,
        }
    )
    assert isinstance(line, Line)
    sampling, stopping = line.sampling(seed=0), line.stopping([2])
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 4, 0.9)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.3, -0.4)
    assert sampling.logit_bias == ((3, 2.5), (11, -100.0))
    assert sampling.seed == 2**64 - 1
    assert (stopping.max_tokens, stopping.min_tokens) == (9, 2)
    assert not stopping.eos_token_ids
    assert stopping.stop_token_ids == {7}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"nope", "not JSON"),
        (b"\xff\xfe{", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        ([1], "not a JSON object"),
        ({}, "exactly one of prompt, prompt_ids, messages"),
        ({"prompt": "a", "prompt_ids": [1]}, "exactly one of"),
        ({"prompt": ""}, "prompt: "),
        ({"prompt": 3}, "prompt: "),
        ({"prompt_ids": []}, "prompt_ids: "),
        ({"prompt_ids": [1, -2]}, "prompt_ids.1: "),
        ({"prompt_ids": [1.5]}, "prompt_ids.0: "),
        ({"messages": [{"role": "user"}]}, "messages.0.content: "),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens: "),
        ({"prompt": "a", "max_tokens": True}, "max_tokens: "),
        ({"prompt": "a", "max_tokens": 2, "min_tokens": 3}, "min_tokens must be at most"),
        ({"prompt": "a", "temperature": -1}, "temperature: "),
        ({"prompt": "a", "temperature": 1e-9}, "temperature must be 0"),
        (b'{"prompt": "a", "temperature": NaN}', "temperature: "),
        ({"prompt": "a", "top_p": 1.1}, "top_p: "),
        ({"prompt": "a", "top_p": 0}, "top_p: "),
        ({"prompt": "a", "stop": ["x"] * 17}, "stop: "),
        ({"prompt": "a", "stop": [""]}, "stop.0: "),
        ({"prompt": "a", "seed": 2**64}, "seed: "),
        ({"prompt": "a", "maxtokens": 4}, "maxtokens: there is no such field"),
    ],
)
def test_a_bad_line_says_what_is_wrong(value: Any, says: str) -> None:
    """The problem names the field by its path, in one line."""
    problem = one(value)
    assert isinstance(problem, str)
    assert says in problem
    assert "\n" not in problem


def test_bad_lines_cost_only_themselves() -> None:
    """Neighbours are read, blank lines are none, numbers count every line of the file."""
    lines = [
        b'{"id": "a", "prompt": "x"}\n',
        b"\n",
        b'{"id": 7, "prompt": ""}\n',
        b'{"prompt": "z"}',
    ]
    found = list(entries(lines))
    assert [(entry.number, entry.id) for entry in found] == [(1, "a"), (3, 7), (4, 4)]
    assert [isinstance(entry.request, Line) for entry in found] == [True, False, True]
    failure = found[1].failure("boom")
    assert failure == {"id": 7, "line": 3, "error": "line 3: boom"}

"""The fields of OpenAI's API: those that are taken reach the engine, all others are refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from mock_serving import Served
from openai_serving import HELLO, saying_abc
from paceline.server.errors import InvalidRequest
from paceline.server.openai_api import fields as module
from paceline.server.tokenizer import Tokenizer


@pytest.fixture
async def door(tokenizer: Tokenizer) -> AsyncIterator[tuple[Served, AsyncOpenAI]]:
    async with saying_abc(tokenizer) as both:
        yield both


async def test_fields_reach_the_engine(
    door: tuple[Served, AsyncOpenAI], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenAI's and vLLM's names become the contract's fields."""
    served, client = door
    assert served.app._frontend is not None
    seen = []
    start = served.app._frontend.engine.start

    async def look(request: Any) -> Any:
        seen.append(request)
        return await start(request)

    monkeypatch.setattr(served.app._frontend.engine, "start", look)
    extra = {
        "top_k": 5,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "ignore_eos": True,
        "min_tokens": 2,
        "stop_token_ids": [7],
        "priority": 3,
    }
    await client.completions.create(
        model="mock",
        prompt=[4, 5, 6],
        max_tokens=4,
        temperature=0.5,
        top_p=0.75,
        seed=-1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"9": -100},
        extra_body=extra,
        extra_headers={"X-Request-Id": "mine"},
    )
    (request,) = seen
    assert (request.id, request.prompt_ids, request.priority) == ("mine", (4, 5, 6), 3)
    sampling, stopping = request.sampling, request.stopping
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 5, 0.75)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.25, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.logit_bias, sampling.seed) == (((9, -100.0),), 2**64 - 1)
    assert (stopping.max_tokens, stopping.min_tokens) == (4, 2)
    assert (stopping.eos_token_ids, stopping.stop_token_ids) == (frozenset(), frozenset({7}))


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": [True]}},
    "required": ["a"],
}
SCHEMA |= {"additionalProperties": False}


CONSTRAINTS: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_object"}}, r"{.*"),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
            }
        },
        r'{"a": true}',
    ),
    ({"guided_json": json.dumps(SCHEMA)}, r'{"a": true}'),
    ({"guided_regex": "[0-9]{3}"}, r"\d{3}"),
    ({"guided_choice": ["yes", "no"]}, "yes|no"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
]


async def test_constraints(door: tuple[Served, AsyncOpenAI]) -> None:
    """Each way to ask for one is followed."""
    _, client = door
    for fields, wanted in CONSTRAINTS:
        done = await client.chat.completions.create(
            model="mock", messages=HELLO, max_tokens=40, extra_body=fields
        )
        assert re.fullmatch(wanted, done.choices[0].message.content or "", re.DOTALL)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 3}, "best_of"),
    ({"user": "x" * 70_000, "best_of": 3}, "best_of"),
    ({"suffix": "!"}, "suffix"),
    ({"temperature": "warm"}, "temperature"),
    ({"temperature": 1000}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"n": 65}, "n"),
    ({"logprobs": 21}, "logprobs"),
    ({"logit_bias": {"many": 1}}, "logit_bias"),
    ({"logit_bias": dict.fromkeys(map(str, range(1025)), "x")}, "logit_bias"),
    ({"logit_bias": {"99999": 1}}, "logit_bias[99999]"),
    ({"stop": ["x", ""]}, "stop[1]"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]] * 1025}, "prompt"),
    ({"prompt": [[]] * 140_000}, "body"),
    ({"prompt": [99999]}, "prompt[0]"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": "x" * 5000}, "prompt"),
    ({"prompt": ["a", "b"], "stream": True}, "prompt"),
    ({"prompt": ["a"] * 1024, "guided_regex": "x" * 4097}, "prompt"),
    ({"echo": True, "logprobs": 1, "stream": True}, "echo"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"guided_regex": "("}, "guided_regex"),
    ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
    ({"temprature": 1}, "temprature"),
    ({"messages": []}, "messages"),
    ({f"x{i}": 1 for i in range(300)}, "body"),
]
BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "9", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages[0].name"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_completion_tokens": 1, "max_tokens": 2}, "max_tokens"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"add_generation_prompt": False}, "add_generation_prompt"),
    ({"echo": True}, "echo"),
]


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("/completions", {"prompt": "a", "max_tokens": 1}, BAD),
        ("/chat/completions", {"messages": HELLO}, BAD_CHATS),
    ],
    ids=["text", "chat"],
)
async def test_bad_fields_are_named(
    door: tuple[Served, AsyncOpenAI],
    path: str,
    good: dict[str, Any],
    bad: list[tuple[dict[str, Any], str]],
) -> None:
    """What is wrong, and what this server does not have, is 400 under the caller's name of the field."""
    _, client = door
    neutral = {"best_of": 1, "tools": [], "user": "me", "store": False, "stop": None}
    assert await client.post(path, body=good | neutral, cast_to=object)
    for fields, param in bad:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.post(path, body=good | fields, cast_to=object)
        assert not re.search("Input|valid | List", str(caught.value.body))  # no library's words
        assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


@pytest.mark.parametrize("beginning", ["[", "{", ":"])
def test_too_many_lists_and_members_are_not_even_read(
    monkeypatch: pytest.MonkeyPatch, beginning: str
) -> None:
    """They are counted in the bytes, for making them would hold up the process. As many as are allowed are read."""
    text = beginning * (module._MAX_BEGINNINGS - 2)  # the body itself has two
    assert module.read_fields(module.CompletionFields, _prompt(text)).prompt == text
    monkeypatch.setattr(module, "from_json", pytest.fail)
    with pytest.raises(InvalidRequest) as refused:
        module.read_fields(module.CompletionFields, _prompt(text + beginning))
    assert [violation.field for violation in refused.value.violations] == ["body"]


def _prompt(text: str) -> bytes:
    return json.dumps({"prompt": text}).encode()

"""What a request's JSON asks for, as the contract's messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paceline.v1 import generation_pb2 as pb

from ..errors import InvalidRequest, Violation
from ..validation import MAX_BATCH_ITEMS
from .fields import ChatFields, Common, CompletionFields, Schema, StreamOptions

_MAX_COPIED_BYTES = 4 * 1024 * 1024  # as much as a body may have
# Paths of the contract whose last name is not the caller's.
_TEXT_NAMES = {
    "generation.text": "prompt",
    "generation.token_ids.ids": "prompt",
    "generation.token_ids": "prompt",
    "generation.response.prompt_logprobs": "logprobs",
}
_CHAT_NAMES = {"generation.chat": "messages", "generation.response.logprobs": "top_logprobs"}
_NAMES = {
    "generation.input": "prompt",
    "generation.request_id": "x-request-id",
    "generation.stopping.include_stop": "include_stop_str_in_output",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        generations: one for each prompt; `n` completions of each. Several are never streamed.
        names: the caller's names of the contract's fields, where they differ.
        usage: whether the stream ends with it; `running_usage`: every event has it.
    """

    generations: tuple[pb.Generation, ...]
    model: str | None
    chat: bool
    stream: bool
    usage: bool = False
    running_usage: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def completions(self) -> int:
        return sum(max(1, generation.sampling.n) for generation in self.generations)


def ask_completion(fields: CompletionFields, request_id: str) -> Asked:
    """InvalidRequest where fields contradict each other."""
    prompts = _prompts(fields.prompt)
    stream = bool(fields.stream)
    _require(1 <= len(prompts) <= MAX_BATCH_ITEMS, "prompt", f"1 to {MAX_BATCH_ITEMS} are allowed")
    _require(len(prompts) == 1 or not stream, "prompt", "only one prompt can be streamed")
    _require(len(prompts) == 1 or not request_id, "x-request-id", "names one prompt only")
    scored = bool(fields.echo) and fields.logprobs is not None
    _require(not (scored and stream), "echo", "log-probabilities of a prompt cannot be streamed")
    common, names = _common(fields, request_id)
    _set(common.stopping, max_tokens=fields.max_tokens)
    _set(common.response, logprobs=fields.logprobs, echo=fields.echo)
    if scored:  # the ids tell the first token, which has no log-probability
        _set(common.response, prompt_logprobs=fields.logprobs, token_ids=True)
    copied = len(prompts) * common.ByteSize()
    _require(copied <= _MAX_COPIED_BYTES, "prompt", "too many for fields that are so large")
    generations = []
    for prompt in prompts:
        generation = pb.Generation()
        generation.CopyFrom(common)
        if isinstance(prompt, str):
            generation.text = prompt
        else:
            generation.token_ids.ids.extend(prompt)
        generations.append(generation)
    return _asked(fields, generations, names | _TEXT_NAMES, chat=False)


def ask_chat(fields: ChatFields, request_id: str) -> Asked:
    """InvalidRequest where fields contradict each other."""
    generation, names = _common(fields, request_id)
    both = fields.max_tokens is not None and fields.max_completion_tokens is not None
    _require(not both, "max_tokens", "max_completion_tokens is its other name; give one of them")
    limit = fields.max_tokens
    if fields.max_completion_tokens is not None:
        limit = fields.max_completion_tokens
        names["generation.stopping.max_tokens"] = "max_completion_tokens"
    _set(generation.stopping, max_tokens=limit)
    wanted = fields.top_logprobs or 0
    _require(not wanted or bool(fields.logprobs), "top_logprobs", "needs logprobs to be true")
    _set(generation.response, logprobs=wanted if fields.logprobs else None)
    goes_on = bool(fields.continue_final_message)
    _require(
        fields.add_generation_prompt is None or fields.add_generation_prompt is not goes_on,
        "add_generation_prompt",
        "is true exactly where continue_final_message is not",
    )
    generation.chat.continue_final_message = goes_on
    for message in fields.messages:
        text = message.content
        if not isinstance(text, str):
            text = "\n".join(part.text for part in text)
        generation.chat.messages.add(role=message.role, content=text)
    if not fields.messages:
        generation.chat.SetInParent()
    return _asked(fields, [generation], names | _CHAT_NAMES, chat=True)


def _asked(
    fields: Common, generations: list[pb.Generation], names: dict[str, str], *, chat: bool
) -> Asked:
    stream = bool(fields.stream)
    _require(stream or fields.stream_options is None, "stream_options", "needs stream to be true")
    options = fields.stream_options or StreamOptions()
    return Asked(
        tuple(generations),
        fields.model,
        chat,
        stream,
        bool(options.include_usage),
        bool(options.continuous_usage_stats),
        names,
    )


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    ids = [each for each in prompt if isinstance(each, int)]
    return [ids] if ids else [each for each in prompt if not isinstance(each, int)]


def _common(fields: Common, request_id: str) -> tuple[pb.Generation, dict[str, str]]:
    """The fields of both endpoints, and their callers' names."""
    generation = pb.Generation(request_id=request_id)
    stop = fields.stop
    _set(
        generation.sampling,
        temperature=fields.temperature,
        top_k=max(0, fields.top_k or 0),  # -1 is vLLM's word for all
        top_p=fields.top_p,
        min_p=fields.min_p,
        repetition_penalty=fields.repetition_penalty,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        seed=None if fields.seed is None else fields.seed % 2**64,
        n=fields.n,
    )
    for token, bias in (fields.logit_bias or {}).items():
        generation.sampling.logit_bias[_token_id(token)] = bias
    _set(
        generation.stopping,
        min_tokens=fields.min_tokens,
        include_stop=fields.include_stop_str_in_output,
        ignore_eos=fields.ignore_eos,
    )
    generation.stopping.stop.extend([stop] if isinstance(stop, str) else stop or ())
    generation.stopping.stop_token_ids.extend(fields.stop_token_ids or ())
    _set(generation.response, skip_special_tokens=fields.skip_special_tokens)
    _set(
        generation,
        priority=fields.priority,
        time_limit_ms=fields.time_limit_ms,
        truncate_prompt_tokens=fields.truncate_prompt_tokens,
    )
    names = dict(_NAMES)
    found = _constraints(fields)
    for name, constraint in found:
        _require(len(found) == 1, found[-1][0], "only one constraint can be followed")
        generation.constraint.CopyFrom(constraint)
        names["generation.constraint"] = name
    return generation, names


def _constraints(fields: Common) -> list[tuple[str, pb.Constraint]]:
    """Each by the name of its field."""
    found = []

    def add(name: str, **kind: Any) -> None:
        if kind.get("json_schema") is not None:
            found.append((name, pb.Constraint(json_schema=_schema(kind["json_schema"]))))
        if kind.get("regex") is not None:
            found.append((name, pb.Constraint(regex=kind["regex"])))
        if kind.get("choice") is not None:
            found.append((name, pb.Constraint(choice=pb.Choice(options=kind["choice"]))))

    add("guided_json", json_schema=fields.guided_json)
    add("guided_regex", regex=fields.guided_regex)
    add("guided_choice", choice=fields.guided_choice)
    if (outputs := fields.structured_outputs) is not None:
        name = "structured_outputs"
        add(name, json_schema=outputs.json_, regex=outputs.regex, choice=outputs.choice)
        if outputs.json_object:
            add(name, json_schema={"type": "object"})
    if (wanted := fields.response_format) is not None:
        name = "response_format"
        given = None if wanted.json_schema is None else wanted.json_schema.schema_
        is_schema = wanted.type == "json_schema"
        _require(is_schema == (given is not None), name, "json_schema.schema belongs to its type")
        add(name, json_schema={"type": "object"} if wanted.type == "json_object" else given)
    return found


def _schema(schema: Schema) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)


def _token_id(text: str) -> int:
    digits = text if text.isascii() and text.isdecimal() and len(text) <= 10 else ""
    token = int(digits or -1)
    _require(0 <= token < 2**32, "logit_bias", f"{text[:20]!r} is no token id")
    return token


def _set(message: Any, **values: Any) -> None:
    """Sets fields; None is unset."""
    for name, value in values.items():
        if value is not None:
            setattr(message, name, value)


def _require(valid: bool, name: str, description: str) -> None:
    if not valid:
        raise InvalidRequest(Violation(name, description))


def renamed(violations: Iterable[Violation], names: Mapping[str, str]) -> list[Violation]:
    """The same violations under the caller's names of the fields."""
    return [Violation(_renamed(v.field, names), v.description) for v in violations]


def _renamed(path: str, names: Mapping[str, str]) -> str:
    if not path.startswith("generation"):
        return path  # found before there was a message
    for known in sorted(names, key=len, reverse=True):
        if path == known or path.startswith((f"{known}.", f"{known}[")):
            rest = path[len(known) :]
            if known == "generation.constraint":
                return names[known]
            return names[known] + rest.removeprefix(".messages")
    return path.rpartition(".")[2]

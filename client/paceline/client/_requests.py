"""Python values to request messages. Range errors that protobuf finds become InvalidRequest with the field's path."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from paceline.client.errors import InvalidRequest, Violation
from paceline.client.options import GenerationCallOptions, Item, Prompt
from paceline.v1 import generation_pb2 as pb

# Option name -> where it goes, as a path inside `Generation`.
_PATHS = (
    {
        name: f"sampling.{name}"
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "seed",
            "n",
        )
    }
    | {
        name: f"stopping.{name}"
        for name in (
            "max_tokens",
            "min_tokens",
            "stop",
            "stop_token_ids",
            "include_stop",
            "ignore_eos",
        )
    }
    | {
        "return_text": "response.text",
        "return_token_ids": "response.token_ids",
        "logprobs": "response.logprobs",
        "prompt_logprobs": "response.prompt_logprobs",
        "echo": "response.echo",
        "skip_special_tokens": "response.skip_special_tokens",
        "continue_final_message": "chat.continue_final_message",
        "choice": "constraint.choice.options",
        "regex": "constraint.regex",
        "json_schema": "constraint.json_schema",
    }
    | {name: name for name in ("request_id", "priority", "time_limit_ms", "truncate_prompt_tokens")}
)


def generate(prompt: Prompt, options: GenerationCallOptions) -> pb.GenerateRequest:
    """The message for one prompt, answered whole."""
    return pb.GenerateRequest(generation=_generation(prompt, _of_generation(options)))


def stream(prompt: Prompt, options: GenerationCallOptions) -> pb.GenerateStreamRequest:
    """The message for one prompt, answered as a stream."""
    return pb.GenerateStreamRequest(generation=_generation(prompt, _of_generation(options)))


def batch(
    prompts: Iterable[Prompt | Item], options: GenerationCallOptions
) -> pb.GenerateBatchRequest:
    """The message for many prompts; an item's own options win over `options`."""
    message = pb.GenerateBatchRequest()
    for index, prompt in enumerate(prompts):
        item = prompt if isinstance(prompt, Item) else Item(prompt)
        merged = {**_of_generation(options), **item.options}
        message.generations.append(_generation(item.prompt, merged, f"generations[{index}]"))
    return message


def apart(message: pb.GenerateBatchRequest) -> list[pb.GenerateRequest]:
    """The same prompts, each in a message of its own."""
    return [pb.GenerateRequest(generation=each) for each in message.generations]


def tokenize(
    prompt: str | Sequence[Mapping[str, str]], add_special_tokens: bool, details: bool
) -> pb.TokenizeRequest:
    """The message that asks for a text's or a conversation's token ids."""
    message = pb.TokenizeRequest(add_special_tokens=add_special_tokens, details=details)
    if isinstance(prompt, str):
        _put(message, "text", prompt, "")
    else:
        message.chat.CopyFrom(_chat(prompt, "chat"))
    return message


def detokenize(token_ids: Iterable[int], skip_special_tokens: bool) -> pb.DetokenizeRequest:
    """The message that asks for the text of token ids."""
    message = pb.DetokenizeRequest(skip_special_tokens=skip_special_tokens)
    _put(message, "token_ids", list(token_ids), "")
    return message


def abort(request_ids: str | Iterable[str], everything: bool) -> pb.AbortRequest:
    """The message that stops requests by id, or all of them."""
    ids = [request_ids] if isinstance(request_ids, str) else list(request_ids)
    return pb.AbortRequest(request_ids=ids, all=everything)


def _of_generation(options: GenerationCallOptions) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "timeout_s"}


def _generation(
    prompt: Prompt, options: Mapping[str, Any], path: str = "generation"
) -> pb.Generation:
    """The part all three share; an option that is None counts as not given."""
    message = pb.Generation()
    _put_prompt(message, prompt, path)
    for name, value in options.items():
        if name not in _PATHS:
            raise TypeError(f"unknown option {name!r}; known are {', '.join(sorted(_PATHS))}")
        if value is None:
            continue
        if name == "continue_final_message" and not message.HasField("chat"):
            raise TypeError("continue_final_message needs a conversation as the prompt")
        _put(message, _PATHS[name], _normalised(name, value), path)
    return message


def _put_prompt(message: pb.Generation, prompt: Prompt, path: str) -> None:
    if isinstance(prompt, str):
        _put(message, "text", prompt, path)
        return
    if not isinstance(prompt, Iterable):
        raise TypeError(
            f"a prompt is text, token ids or chat messages, not {type(prompt).__name__}"
        )
    parts = list(prompt)
    if parts and isinstance(parts[0], Mapping):
        message.chat.CopyFrom(_chat(parts, f"{path}.chat"))
    else:
        message.token_ids.SetInParent()
        _put(message, "token_ids.ids", parts, path)


def _chat(messages: Iterable[Any], path: str) -> pb.Chat:
    chat = pb.Chat()
    for index, each in enumerate(messages):
        if not isinstance(each, Mapping) or set(each) != {"role", "content"}:
            raise TypeError(
                f"{path}.messages[{index}]: want {{'role': …, 'content': …}}, got {each!r}"
            )
        message = chat.messages.add()
        for field in ("role", "content"):
            _put(message, field, each[field], f"{path}.messages[{index}]")
    return chat


def _normalised(name: str, value: Any) -> Any:
    if name == "stop" and isinstance(value, str):
        return [value]
    if name == "json_schema" and not isinstance(value, str):
        return json.dumps(value)
    return value


def _put(message: Message, path: str, value: Any, prefix: str) -> None:
    """Sets the field at the dotted `path` inside `message`; `prefix` goes before it in errors."""
    *groups, field = path.split(".")
    target: Any = message
    for group in groups:
        target = getattr(target, group)
    try:
        if isinstance(value, Mapping):
            getattr(target, field).update(value)
        elif isinstance(value, str) or not isinstance(value, Iterable):
            setattr(target, field, value)
        else:
            getattr(target, field).extend(value)
    except (ValueError, OverflowError) as error:
        full = f"{prefix}.{path}" if prefix else path
        raise InvalidRequest(
            f"{full}: {error}", violations=(Violation(full, str(error)),)
        ) from error
    except TypeError as error:
        raise TypeError(f"{path}: {error}") from error

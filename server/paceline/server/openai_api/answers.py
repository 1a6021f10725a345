"""The service's messages as OpenAI's JSON: the whole answer, and the events of a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from paceline.v1 import generation_pb2 as pb

from .asked import Asked
from .logprobs import chat_logprobs, text_logprobs

DONE = b"data: [DONE]\n\n"
# The rest ended because it had to: by a limit of tokens, context or time.
_REASONS = {
    pb.FINISH_REASON_EOS: "stop",
    pb.FINISH_REASON_STOP_SEQUENCE: "stop",
    pb.FINISH_REASON_STOP_TOKEN: "stop",
    pb.FINISH_REASON_CANCELLED: "abort",
    pb.FINISH_REASON_ABORTED: "abort",
}
encode = msgspec.json.Encoder().encode


def whole_answer(
    asked: Asked, results: Sequence[pb.GenerationResult], firsts: Sequence[str]
) -> bytes:
    """The answer to a request that is not streamed.

    Args:
        results: one for each generation.
        firsts: the text of each prompt's first token, where the prompts' log-probabilities were asked for.
    """
    choices: list[dict[str, Any]] = []
    for result, first in zip(results, firsts, strict=True):
        for completion in result.completions:
            choice = _ending(completion.finish) | {"index": len(choices)}
            if asked.chat:
                message = {"role": "assistant", "content": completion.text}
                choice |= {"message": message, "logprobs": chat_logprobs(completion.logprobs)}
            else:
                entries = [*result.prompt_logprobs, *completion.logprobs]
                choice |= {"text": completion.text, "logprobs": text_logprobs(entries, first)}
            choices.append(choice)
    usages = [result.usage for result in results]
    usage = _usage(
        sum(usage.prompt_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages),
        sum(usage.cached_tokens for usage in usages),
    )
    head = _head(asked, results[0].request_id, results[0].model)
    return encode(head | {"choices": choices, "usage": usage})


class Events:
    """Makes one stream's events."""

    def __init__(self, asked: Asked, header: pb.StreamHeader) -> None:
        self._asked = asked
        self._head = _head(asked, header.request_id, header.model)
        self._prompt_tokens = header.prompt_tokens
        self._tokens = 0
        self._lengths: dict[int, int] = {}  # of the tokens' texts so far, by choice

    def opening(self) -> Iterator[bytes]:
        """A chat's choices begin with whose turn it is."""
        if self._asked.chat:
            for index in range(max(1, self._asked.generations[0].sampling.n)):
                delta = {"role": "assistant", "content": ""}
                yield self._event(
                    {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
                )

    def piece(self, message: pb.GenerateStreamResponse) -> Iterator[bytes]:
        """What a message of the service says: often one event, none where it has nothing to tell yet."""
        self._tokens += message.num_tokens
        ended = message.HasField("finish")
        if message.text or message.logprobs or ended or self._asked.running_usage:
            choice = _ending(message.finish) if ended else {"finish_reason": None}
            choice |= {"index": message.index}
            if self._asked.chat:
                delta = {"content": message.text} if message.text or not ended else {}
                choice |= {"delta": delta, "logprobs": chat_logprobs(message.logprobs)}
            else:
                choice |= {"text": message.text, "logprobs": self._text_logprobs(message)}
            yield self._event(choice)
        if message.HasField("summary") and self._asked.usage:
            used = message.summary.usage
            usage = _usage(used.prompt_tokens, used.completion_tokens, used.cached_tokens)
            yield _data(self._head | {"choices": [], "usage": usage})

    def _text_logprobs(self, message: pb.GenerateStreamResponse) -> dict[str, Any] | None:
        begin = self._lengths.get(message.index, 0)
        made = text_logprobs(message.logprobs, begin=begin)
        if made is not None:
            self._lengths[message.index] = begin + sum(map(len, made["tokens"]))
        return made

    def _event(self, choice: dict[str, Any]) -> bytes:
        value = self._head | {"choices": [choice]}
        if self._asked.running_usage:
            value["usage"] = _usage(self._prompt_tokens, self._tokens)
        elif self._asked.usage:
            value["usage"] = None
        return _data(value)


def models_answer(model: pb.GetModelInfoResponse) -> bytes:
    """The list of the one model that is served."""
    card = {
        "id": model.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "paceline",
        "max_model_len": model.max_context_tokens,  # vLLM's
    }
    return encode({"object": "list", "data": [card]})


def _head(asked: Asked, request_id: str, model: str) -> dict[str, Any]:
    kind = "chat.completion" if asked.chat else "text_completion"
    if asked.chat and asked.stream:
        kind += ".chunk"
    prefix = "chatcmpl" if asked.chat else "cmpl"
    return {
        "id": f"{prefix}-{request_id}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _ending(finish: pb.Finish) -> dict[str, Any]:
    """How a choice ended; `stop_reason`, vLLM's, is the stop string or token that ended it."""
    stop: str | int | None = finish.stop_sequence or None
    if finish.HasField("stop_token_id"):
        stop = finish.stop_token_id
    return {"finish_reason": _REASONS.get(finish.reason, "length"), "stop_reason": stop}


def _usage(prompt: int, completion: int, cached: int | None = None) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return usage


def _data(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % encode(value)

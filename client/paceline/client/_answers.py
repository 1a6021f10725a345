"""Answer messages to Python values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from paceline.client._status import from_code
from paceline.client.errors import PacelineError, Violation
from paceline.client.results import (
    BatchingMode,
    Chunk,
    Completion,
    Finish,
    FinishReason,
    Generation,
    Load,
    ModelInfo,
    ServerInfo,
    Timings,
    TokenLogprob,
    TokenLogprobs,
    Tokens,
    Usage,
)
from paceline.v1 import generation_pb2 as pb

_REASONS = {
    number: FinishReason[name.removeprefix("FINISH_REASON_")]
    for name, number in pb.FinishReason.items()
    if number != pb.FINISH_REASON_UNSPECIFIED
}
_MODES = {
    number: BatchingMode[name.removeprefix("BATCHING_MODE_")]
    for name, number in pb.BatchingMode.items()
    if number != pb.BATCHING_MODE_UNSPECIFIED
}


def generation(message: pb.GenerationResult) -> Generation:
    """The whole answer to one prompt."""
    return Generation(
        request_id=message.request_id,
        model=message.model,
        completions=tuple(_completion(each) for each in message.completions),
        usage=usage(message.usage),
        timings=timings(message.timings),
        seed=message.seed,
        prompt_logprobs=prompt_logprobs(message.prompt_logprobs),
    )


def batch(message: pb.GenerateBatchResponse) -> list[Generation | PacelineError]:
    """Each item's answer or its own error, in order."""
    return [
        _item_error(item.error) if item.HasField("error") else generation(item.result)
        for item in message.items
    ]


def each(
    outcomes: Iterable[pb.GenerateResponse | PacelineError],
) -> list[Generation | PacelineError]:
    """Answers and errors of calls of their own, in order."""
    return [
        outcome if isinstance(outcome, PacelineError) else generation(outcome.result)
        for outcome in outcomes
    ]


def chunk(message: pb.GenerateStreamResponse) -> Chunk | None:
    """What a stream's message adds to a completion; None for a bare header or summary."""
    finished = message.HasField("finish")
    if not (message.text or message.token_ids or message.num_tokens or finished):
        return None
    return Chunk(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        num_tokens=message.num_tokens,
        offset=message.offset,
        logprobs=_logprobs(message.logprobs),
        finish=_finish(message.finish) if finished else None,
    )


def prompt_logprobs(messages: Iterable[pb.TokenLogprobs]) -> tuple[TokenLogprobs | None, ...]:
    """Of each prompt token; the first has none."""
    return tuple(_token(each) if each.HasField("chosen") else None for each in messages)


def usage(message: pb.Usage) -> Usage:
    """Token counts."""
    return Usage(**_fields(message, Usage))


def timings(message: pb.Timings) -> Timings:
    """Where the server's time went."""
    return Timings(**_fields(message, Timings))


def tokens(message: pb.TokenizeResponse) -> Tokens:
    """Token ids, with texts and offsets where they were asked for."""
    return Tokens(
        ids=tuple(message.token_ids),
        tokens=tuple(message.tokens),
        offsets=tuple((span.start, span.end) for span in message.offsets),
    )


def model_info(message: pb.GetModelInfoResponse) -> ModelInfo:
    """The served model."""
    values = _fields(message, ModelInfo)
    return ModelInfo(**values | {"eos_token_ids": tuple(message.eos_token_ids)})


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    """How the model is served."""
    values = _fields(message, ServerInfo) | {
        "mode": _MODES.get(message.mode, BatchingMode.UNKNOWN),
        "versions": dict(message.versions),
        "features": tuple(message.features),
    }
    return ServerInfo(**values)


def load(message: pb.GetLoadResponse) -> Load:
    """A sample of gauges and counters."""
    return Load(**_fields(message, Load))


def _fields(message: Message, cls: type) -> dict[str, Any]:
    """The message's values for a dataclass whose fields have the contract's names."""
    return {field.name: getattr(message, field.name) for field in dataclasses.fields(cls)}


def _completion(message: pb.Completion) -> Completion:
    return Completion(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        num_tokens=message.num_tokens,
        logprobs=_logprobs(message.logprobs),
        finish=_finish(message.finish),
        seed=message.seed,
    )


def _finish(message: pb.Finish) -> Finish:
    return Finish(
        reason=_REASONS.get(message.reason, FinishReason.UNKNOWN),
        stop_sequence=message.stop_sequence or None,
        stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
    )


def _logprobs(messages: Iterable[pb.TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    return tuple(_token(each) for each in messages)


def _token(message: pb.TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(_logprob(message.chosen), tuple(_logprob(top) for top in message.top))


def _logprob(message: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(message.token_id, message.token, message.logprob)


def _item_error(message: pb.ItemError) -> PacelineError:
    violations = tuple(Violation(each.field, each.description) for each in message.violations)
    retry_after_s = message.retry_after_ms / 1e3 if message.retry_after_ms else None
    return from_code(
        message.code, message.message, violations=violations, retry_after_s=retry_after_s
    )

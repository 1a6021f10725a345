"""Domain values to messages."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.v1 import generation_pb2 as pb

from .completion import Delta
from .config import Mode
from .job import Job
from .request import Finish, FinishReason, Load, ModelInfo, Timings, TokenLogprobs, Usage
from .tokenizer import Tokenizer

REASONS = {reason: pb.FinishReason.Value(f"FINISH_REASON_{reason.name}") for reason in FinishReason}
MODES = {mode: pb.BatchingMode.Value(f"BATCHING_MODE_{mode.name}") for mode in Mode}


def total_usage(finishes: Sequence[Finish]) -> Usage:
    """Of all completions: their tokens summed; the prompt, which they share, once."""
    first = finishes[0].usage
    completion_tokens = sum(finish.usage.completion_tokens for finish in finishes)
    return Usage(first.prompt_tokens, completion_tokens, first.cached_tokens)


def total_timings(finishes: Sequence[Finish]) -> Timings:
    """Of all completions: the earliest beginnings, the latest end."""
    timings = [finish.timings for finish in finishes]
    begun = [t for t in timings if t.ttft_s] or timings
    first = min(begun, key=lambda t: t.ttft_s)
    return Timings(
        queue_s=min(t.queue_s for t in timings),
        prefill_s=first.prefill_s,
        decode_s=max(t.ttft_s + t.decode_s for t in timings) - first.ttft_s,
        ttft_s=first.ttft_s,
        total_s=max(t.total_s for t in timings),
        batch_rows_mean=sum(t.batch_rows_mean for t in timings) / len(timings),
        batch_rows_max=max(t.batch_rows_max for t in timings),
        preemptions=sum(t.preemptions for t in timings),
    )


def usage_message(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def timings_message(timings: Timings) -> pb.Timings:
    return pb.Timings(
        queue_ms=timings.queue_s * 1e3,
        prefill_ms=timings.prefill_s * 1e3,
        decode_ms=timings.decode_s * 1e3,
        ttft_ms=timings.ttft_s * 1e3,
        total_ms=timings.total_s * 1e3,
        batch_rows_mean=timings.batch_rows_mean,
        batch_rows_max=timings.batch_rows_max,
        preemptions=timings.preemptions,
    )


def finish_message(finish: Finish) -> pb.Finish:
    return pb.Finish(
        reason=REASONS[finish.reason],
        stop_sequence=finish.stop_sequence or "",
        stop_token_id=finish.stop_token_id,
    )


def logprobs_message(entry: TokenLogprobs, token: int, tokenizer: Tokenizer) -> pb.TokenLogprobs:
    def one(token_id: int, logprob: float) -> pb.TokenLogprob:
        text = tokenizer.token_text(token_id)
        return pb.TokenLogprob(token_id=token_id, token=text, logprob=logprob)

    return pb.TokenLogprobs(
        chosen=one(token, entry.chosen),
        top=[one(token_id, logprob) for token_id, logprob in entry.top],
    )


def delta_logprobs(delta: Delta, tokenizer: Tokenizer) -> list[pb.TokenLogprobs]:
    pairs = zip(delta.logprobs, delta.token_ids, strict=False)
    return [logprobs_message(entry, token, tokenizer) for entry, token in pairs]


def prompt_logprobs(delta: Delta, job: Job, tokenizer: Tokenizer) -> list[pb.TokenLogprobs]:
    """Those that came with this delta: none, or one for each token of the prompt."""
    return [
        pb.TokenLogprobs() if entry is None else logprobs_message(entry, token, tokenizer)
        for entry, token in zip(delta.prompt_logprobs, job.request.prompt_ids, strict=False)
    ]


def stream_message(delta: Delta, job: Job, tokenizer: Tokenizer) -> pb.GenerateStreamResponse:
    """One for each delta, thousands a second: a field that is empty costs as much as one that is not."""
    message = pb.GenerateStreamResponse(
        index=delta.index, text=delta.text, num_tokens=delta.num_tokens, offset=delta.offset
    )
    if job.response.token_ids:
        message.token_ids.extend(delta.token_ids)
    if delta.logprobs:
        message.logprobs.extend(delta_logprobs(delta, tokenizer))
    if delta.prompt_logprobs:
        message.prompt_logprobs.extend(prompt_logprobs(delta, job, tokenizer))
    if delta.finish is not None:
        message.finish.CopyFrom(finish_message(delta.finish))
    return message


def result_message(
    deltas: Sequence[Delta], finishes: Sequence[Finish], job: Job, model: str, tokenizer: Tokenizer
) -> pb.GenerationResult:
    """The whole answer of a job from all its deltas."""
    completions = [
        _completion([d for d in deltas if d.index == index], index, job, tokenizer)
        for index in range(job.request.n)
    ]
    return pb.GenerationResult(
        request_id=job.request.id,
        model=model,
        completions=completions,
        usage=usage_message(total_usage(finishes)),
        timings=timings_message(total_timings(finishes)),
        seed=job.request.sampling.seed,
        prompt_logprobs=[one for d in deltas for one in prompt_logprobs(d, job, tokenizer)],
    )


def _completion(
    deltas: Sequence[Delta], index: int, job: Job, tokenizer: Tokenizer
) -> pb.Completion:
    finish = next((delta.finish for delta in deltas if delta.finish is not None), None)
    ids = [token for delta in deltas for token in delta.token_ids]
    return pb.Completion(
        index=index,
        text="".join(delta.text for delta in deltas),
        token_ids=ids if job.response.token_ids else (),
        num_tokens=sum(delta.num_tokens for delta in deltas),
        logprobs=[entry for delta in deltas for entry in delta_logprobs(delta, tokenizer)],
        finish=None if finish is None else finish_message(finish),
        seed=(job.request.sampling.seed + index) % 2**64,
    )


def model_message(info: ModelInfo, *, context: int, chat: bool) -> pb.GetModelInfoResponse:
    return pb.GetModelInfoResponse(
        name=info.name,
        architecture=info.architecture,
        num_parameters=info.num_parameters,
        dtype=info.dtype,
        vocab_size=info.vocab_size,
        max_context_tokens=context,
        eos_token_ids=info.eos_token_ids,
        has_chat_template=chat,
        num_layers=info.num_layers,
        hidden_size=info.hidden_size,
    )


def load_message(load: Load) -> pb.GetLoadResponse:
    return pb.GetLoadResponse(
        time_s=load.time_s,
        running=load.running,
        waiting=load.waiting,
        waiting_tokens=load.waiting_tokens,
        pages_used=load.pages_used,
        pages_total=load.pages_total,
        step_rows=load.step_rows,
        step_padded_rows=load.step_padded_rows,
        steps=load.steps,
        real_tokens=load.real_tokens,
        padded_tokens=load.padded_tokens,
        prompt_tokens=load.prompt_tokens,
        output_tokens=load.output_tokens,
        cached_tokens=load.cached_tokens,
        preemptions=load.preemptions,
        requests_finished=load.requests_finished,
        requests_rejected=load.requests_rejected,
        step_s=load.step_s,
        draining=load.draining,
        row_steps=load.row_steps,
        queue_wait_s=load.queue_wait_s,
        replicas=map(load_message, load.replicas),
    )

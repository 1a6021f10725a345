"""From the engine's outputs to deltas."""

from __future__ import annotations

from paceline.server.completion import Completion, Delta
from paceline.server.errors import DeadlineExceeded
from paceline.server.job import Job, ResponseOptions
from paceline.server.request import (
    Finish,
    FinishReason,
    Output,
    Request,
    SamplingParams,
    StoppingParams,
    Timings,
    Usage,
)
from paceline.server.stops import StopSet
from paceline.server.tokenizer import Tokenizer


def completion(tokenizer: Tokenizer, *stop: str, **options: bool) -> Completion:
    request = Request("r", (0, 5), SamplingParams(), StoppingParams(99), 0.0)
    response = ResponseOptions(token_ids=True, skip_special=options.pop("skip_special", True))
    job = Job(request, response, stop, **options)
    return Completion(job, 0, tokenizer, StopSet(stop))


def outputs(ids: list[int], finish: Finish | None = None) -> list[Output]:
    """One output for each token; the last one carries the finish."""
    last = len(ids) - 1
    return [
        Output("r", 0, (token,), finish=finish if position == last else None)
        for position, token in enumerate(ids)
    ]


def ending(reason: FinishReason, tokens: int, error: Exception | None = None) -> Finish:
    return Finish(reason, Usage(2, tokens), Timings(total_s=1.0), None, error)


def take(followed: Completion, made: list[Output]) -> Delta:
    delta = followed.take(made)
    assert delta is not None
    return delta


def test_a_match_overrides_whatever_ended_the_engine(tokenizer: Tokenizer) -> None:
    """Tokens made after the match are neither sent nor counted; timings stay the engine's; errors are void."""
    ids = tokenizer.encode("one two STOP three four")
    followed = completion(tokenizer, "STOP")
    first = take(followed, outputs(ids))
    assert first.text == "one two "
    assert followed.matched
    late = ending(FinishReason.TIME_LIMIT, 30, DeadlineExceeded("late"))
    last = take(followed, outputs([5, 5], late))
    assert (last.num_tokens, last.text) == (0, "")
    assert last.finish is not None
    assert last.finish.reason is FinishReason.STOP_SEQUENCE
    assert last.finish.stop_sequence == "STOP"
    assert last.finish.error is None
    assert last.finish.usage.completion_tokens == first.num_tokens < len(ids)
    assert last.finish.timings.total_s == 1.0
    assert followed.take(outputs([5])) is None


def test_held_text_comes_with_the_end(tokenizer: Tokenizer) -> None:
    """What might have become a stop string is given out when it cannot any more."""
    followed = completion(tokenizer, "ten!")
    ids = tokenizer.encode("nine ten")
    first = take(followed, outputs(ids))
    assert first.text == "nine "
    last = take(followed, [Output("r", 0, finish=ending(FinishReason.ABORTED, len(ids)))])
    assert (last.text, last.num_tokens, last.offset) == ("ten", 0, len(ids))
    assert last.finish is not None
    assert last.finish.reason is FinishReason.ABORTED


def test_end_token_is_sent_as_id_but_not_as_text(tokenizer: Tokenizer) -> None:
    """The end-of-sequence token counts, and shows in the text only with `include_stop`."""
    ids = [*tokenizer.encode("one"), 1]
    for include, text in ((False, "one"), (True, "one<|end|>")):
        followed = completion(tokenizer, include_stop=include, skip_special=False)
        delta = take(followed, outputs(ids, ending(FinishReason.EOS, len(ids))))
        assert delta.text == text
        assert delta.token_ids == tuple(ids)


def test_nothing_new_is_no_delta(tokenizer: Tokenizer) -> None:
    """Outputs that add nothing for the caller give none."""
    followed = completion(tokenizer, "one")
    take(followed, outputs(tokenizer.encode("one")))
    assert followed.take(outputs([5])) is None

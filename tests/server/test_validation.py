"""What a valid message becomes; bad ones are sent over the wire in test_bad_input."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mock_serving import generation
from paceline.server.errors import InvalidRequest
from paceline.server.job import Conversation, Draft, Limits
from paceline.server.request import SamplingParams, StoppingParams
from paceline.server.validation import check_generation
from paceline.v1 import generation_pb2 as pb

LIMITS = Limits(
    vocab_size=100,
    max_context=64,
    max_queue_requests=10,
    max_queue_tokens=1000,
    default_max_tokens=32,
    eos_token_ids=frozenset({2}),
    has_chat_template=True,
)
S, T = pb.Sampling, pb.Stopping


def check(message: pb.Generation, limits: Limits = LIMITS) -> Draft:
    return check_generation(message, limits)


def test_unset_is_not_zero() -> None:
    """Fields that are not set have their documented defaults, and zeros that are set stay zeros."""
    unset = check(pb.Generation(text="x"))
    assert replace(unset.sampling, seed=0) == SamplingParams()
    assert unset.stopping == StoppingParams(32, eos_token_ids=frozenset({2}))
    assert (unset.n, unset.response.text, unset.response.logprobs) == (1, True, None)
    zero = check(
        pb.Generation(
            text="x",
            sampling=S(temperature=0.0, seed=0),
            response=pb.ResponseOptions(text=False, logprobs=0, skip_special_tokens=False),
        )
    )
    assert zero.sampling.greedy
    assert zero.sampling.seed == 0
    assert (zero.response.text, zero.response.logprobs) == (False, 0)
    assert not zero.response.skip_special


def test_the_edges_of_every_bound_are_inside() -> None:
    """Values exactly at a documented bound are valid, although they travel as 32-bit floats."""
    low = S(
        temperature=1e-5,
        top_p=1e-6,
        min_p=0.0,
        repetition_penalty=0.01,
        presence_penalty=-2.0,
        frequency_penalty=-2.0,
        logit_bias={0: -100.0},
        n=1,
    )
    high = S(
        temperature=100.0,
        top_k=4_000_000_000,
        top_p=1.0,
        min_p=1.0,
        repetition_penalty=100.0,
        presence_penalty=2.0,
        frequency_penalty=2.0,
        logit_bias={99: 100.0},
        n=10,
        seed=2**64 - 1,
    )
    stopping = T(stop=["x" * 256] * 16, stop_token_ids=[99] * 64, max_tokens=1, min_tokens=1)
    for sampling, priority in ((low, -100), (high, 100)):
        check(
            generation(
                sampling=sampling, stopping=stopping, priority=priority, request_id="x" * 128
            )
        )
    assert check(generation(sampling=high)).sampling.top_k == 0  # all of them


def test_completions_are_bounded_by_the_queue() -> None:
    """More completions than the queue holds could never be served."""
    with pytest.raises(InvalidRequest, match=r"generation\.sampling\.n"):
        check(generation(sampling=S(n=11)))


def test_drawn_seeds_and_ids_differ() -> None:
    """Two requests that leave seed and id open get their own."""
    one, two = (check(generation()) for _ in range(2))
    assert one.sampling.seed != two.sampling.seed
    assert one.request_id != two.request_id


def test_inputs_become_prompts() -> None:
    """Text, ids and conversations arrive as what they are."""
    assert check(generation("hello")).prompt == "hello"
    assert check(generation(token_ids=pb.TokenIds(ids=[1, 99]))).prompt == (1, 99)
    chat = pb.Chat(
        messages=[pb.ChatMessage(role="user", content="hi")], continue_final_message=True
    )
    assert check(generation(chat=chat)).prompt == Conversation((("user", "hi"),), True)


def test_ignored_end_of_sequence_is_no_end() -> None:
    """`ignore_eos` leaves no end-of-sequence tokens to the engine."""
    assert check(generation(stopping=T(ignore_eos=True))).stopping.eos_token_ids == frozenset()


def test_times_become_seconds_of_the_clock() -> None:
    """A time limit counts from arrival; the deadline is passed on."""
    draft = check(generation(time_limit_ms=1500))
    request = draft.job([1, 2], LIMITS, arrival=10.0, deadline=12.0).request
    assert (request.arrival, request.time_limit, request.deadline) == (10.0, 11.5, 12.0)
    without = check(generation()).job([1, 2], LIMITS, arrival=10.0, deadline=None).request
    assert (without.time_limit, without.deadline) == (None, None)


@pytest.mark.parametrize(("tokens", "fits"), [(0, False), (1, True), (63, True), (64, False)])
def test_prompt_must_leave_room_for_a_token(tokens: int, fits: bool) -> None:
    """The longest prompt is one token shorter than the context."""
    draft = check(generation())
    if fits:
        draft.job([5] * tokens, LIMITS, arrival=0.0, deadline=None)
    else:
        with pytest.raises(InvalidRequest, match=r"^generation\.text: the prompt"):
            draft.job([5] * tokens, LIMITS, arrival=0.0, deadline=None)


def test_truncation_keeps_the_end() -> None:
    """A prompt that is too long fits once it is truncated."""
    draft = check(generation(truncate_prompt_tokens=3))
    job = draft.job(list(range(100)), LIMITS, arrival=0.0, deadline=None)
    assert job.request.prompt_ids == (97, 98, 99)

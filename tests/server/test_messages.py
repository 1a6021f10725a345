"""What crosses the border between processes arrives as it was sent."""

from __future__ import annotations

import msgspec
import pytest

from paceline.server.errors import (
    DeadlineExceeded,
    EngineFailure,
    FeatureUnavailable,
    InvalidRequest,
    LimitReached,
    OutOfMemory,
    PacelineError,
    PermissionDenied,
    QueueFull,
    SetupError,
    Unauthenticated,
    Unavailable,
    Violation,
    from_wire,
    to_wire,
)
from paceline.server.processes import orders
from paceline.server.processes.messages import (
    Other,
    Outputs,
    Refused,
    Submit,
    decode_outputs,
    decode_to_engine,
    decode_to_frontend,
    encode,
)
from paceline.server.request import (
    Constraint,
    Finish,
    FinishReason,
    Request,
    SamplingParams,
    StoppingParams,
    Timings,
    TokenLogprobs,
    Usage,
)
from paceline.server.tally import Tally

ERRORS = [
    InvalidRequest(Violation("a.b", "is bad"), Violation("c", "too: bad")),
    QueueFull("3 requests are waiting already", 2.5),
    Unavailable("the server is shutting down", 0.5),
    DeadlineExceeded("too late"),
    FeatureUnavailable("no chat template"),
    EngineFailure("0123456789ab"),
    OutOfMemory(),
    SetupError("change something"),
]
# Said by a front end itself.
AT_THE_DOOR = {LimitReached, PermissionDenied, Unauthenticated}


def same(one: PacelineError, other: PacelineError) -> bool:
    return (type(one), str(one), vars(one)) == (type(other), str(other), vars(other))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_keep_class_text_and_details(error: PacelineError) -> None:
    """Every class of the tree comes back whole, violations, delays and ids included."""
    kind, parts = msgspec.msgpack.decode(msgspec.msgpack.encode(to_wire(error)))
    assert same(from_wire(kind, parts), error)


def test_every_class_of_the_tree_is_known() -> None:
    """A new class of error that cannot travel is noticed here."""
    travels = {type(error) for error in ERRORS}
    # Those of one door alone are defined beside it.
    tree = {e for e in PacelineError.__subclasses__() if e.__module__ == PacelineError.__module__}
    assert travels | AT_THE_DOOR == tree


def test_a_request_arrives_whole() -> None:
    """All that a caller may ask for, at the edges of its types."""
    sampling = SamplingParams(
        0.5, 3, 0.9, 0.1, 1.1, 0.2, 0.3, ((5, -100.0), (6, 1.5)), seed=2**64 - 1
    )
    stopping = StoppingParams(9, 2, frozenset({1, 2}), frozenset({7}))
    choice = Constraint("choice", ("é", "b"))
    request = Request("é", (1, 2, 3), sampling, stopping, 12.25, 4, 5, -3, 99.5, 88.5, choice, 6)
    sent = Submit(17, request, bytes(range(16)), again=True)
    assert decode_to_engine(encode(sent)) == sent


def test_a_steps_outputs_arrive_whole() -> None:
    """Plain tokens in parallel lists; log-probabilities and an end with its error beside them."""
    usage, timings = Usage(1, 2, 3), Timings(0.5, preemptions=2)
    finish = Finish(FinishReason.ERROR, usage, timings, 5, EngineFailure("ab"))
    logprobs = (TokenLogprobs(-0.5, ((3, -0.5), (4, -1.5))),)
    sent = Outputs([1, 2], [30, 40], [Other(3, (5,), logprobs, finish, (None, *logprobs))])
    got = decode_outputs(encode(sent))
    assert (got.slots, got.tokens, got.last) == ([1, 2], [30, 40], False)
    (other,) = got.others
    assert (other.slot, other.token_ids, other.logprobs) == (3, (5,), logprobs)
    assert other.prompt_logprobs == (None, *logprobs)
    assert other.finish is not None and isinstance(other.finish.error, EngineFailure)
    assert other.finish.error.error_id == "ab"
    assert (other.finish.usage, other.finish.timings) == (usage, timings)


def test_a_step_of_plain_tokens_is_small() -> None:
    """256 tokens are a few bytes each, not an object each."""
    slots = list(range(100_000, 100_256))
    assert len(encode(Outputs(slots, [49_000] * 256, []))) < 256 * 9


def test_a_refusal_carries_its_error() -> None:
    """The front end raises what the engine raised."""
    got = decode_to_frontend(encode(Refused(3, QueueFull("full", 1.5))))
    assert isinstance(got, Refused)
    assert isinstance(got.error, QueueFull) and got.error.retry_after_s == 1.5


def test_strings_of_a_librarys_own_kind_travel() -> None:
    """Versions are such strings; to the supervisor they are plain text."""

    class Version(str):
        """Like torch's."""

    body = orders.encode(orders.SetupFailed(Version("2.0")))
    assert msgspec.msgpack.decode(body, type=orders.FromEngine) == orders.SetupFailed("2.0")


def test_tallies_add_up() -> None:
    """Two front ends' counts are the counts of one that saw everything; what was taken is not counted again."""
    finish = Finish(FinishReason.EOS, Usage(5, 10), Timings(0.1, 0.2, 0.9, 0.3, 1.2, 4.0, 8))
    one, two, both = Tally(), Tally(), Tally()
    for tally in (one, both):
        tally.made(3, 0.3)
        tally.answered("OK")
    for tally in (two, both):
        tally.ended(finish)
        tally.answered("OK")
        tally.answered("UNAVAILABLE")
    total = Tally()
    assert total.empty
    for tally in (one, two):
        body = msgspec.msgpack.encode(tally.take())
        total.add(msgspec.msgpack.decode(body, type=Tally))
        assert tally.empty
    assert total == both
    assert not total.empty

"""Messages that do not parse."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.server.wire import Malformed, parse
from paceline.v1 import generation_pb2 as pb


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_reason(data: bytes) -> None:
    """No input raises, however broken."""
    parsed = parse(pb.GenerateBatchRequest, data)
    assert isinstance(parsed, (Malformed, pb.GenerateBatchRequest))


def test_good_bytes_are_the_message() -> None:
    """A message survives."""
    message = pb.GenerateRequest(generation=pb.Generation(text="café", priority=-3))
    assert parse(pb.GenerateRequest, message.SerializeToString()) == message


def test_bad_text_deep_inside_is_found() -> None:
    """The path leads through repeated messages, past fields of every wire type."""
    good = pb.Generation(text="x", priority=1, sampling=pb.Sampling(temperature=1.0, seed=5))
    bad = pb.Generation()
    bad.chat.messages.add(role="user", content="fine")
    bad.chat.messages.add(role="user", content="BROKEN")
    request = pb.GenerateBatchRequest(generations=[good, bad])
    data = request.SerializeToString().replace(b"BROKEN", b"BRO\xc3EN")
    assert parse(pb.GenerateBatchRequest, data) == Malformed(
        "generations[1].chat.messages[1].content", "is not valid UTF-8"
    )

"""Messages that do not parse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.server import wire
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


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 4_194_304,  # a number without end
        b"\x00" * 4_194_304,
        b"\x78\x01" * 2_097_152 + b"\xff",  # two million unknown fields
        pb.Generation(stopping=pb.Stopping(stop=["", ""] * 500_000)).SerializeToString() + b"\xff",
    ],
    ids=["ones", "zeros", "fields", "nested"],
)
def test_long_nonsense_is_given_up_early(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever four million bytes hold, few of them are looked at before the whole is refused."""
    looked = 0
    varint = wire._varint

    def counted(*arguments: Any) -> Any:
        nonlocal looked
        looked += 1
        return varint(*arguments)

    monkeypatch.setattr(wire, "_varint", counted)
    assert parse(pb.Generation, data) == Malformed("request", "the bytes are no Generation")
    assert looked < 50_000

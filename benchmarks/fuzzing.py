"""Inputs nobody would send on purpose: messages of extreme values, and valid ones with bytes changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from paceline.v1 import generation_pb2 as pb

SERVICE = "/paceline.v1.GenerationService/"
# Few tokens, so that an input that is accepted costs little.
FLAGS = ("--mock", "--mock-tokens-per-s", "0", "--max-context-tokens", "64")
FORBIDDEN = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.DATA_LOSS,
}
_WAIT_S = 30.0

# Ready for all that a plain request has, so that one changed field is met by code behind the first check.
_GENERATION = pb.Generation(
    text="one two three",
    sampling=pb.Sampling(temperature=0.7, top_k=5, top_p=0.9, n=2, logit_bias={40: 1.5}, seed=1),
    stopping=pb.Stopping(max_tokens=4, stop=["zz"], stop_token_ids=[9]),
    response=pb.ResponseOptions(token_ids=True, logprobs=2, echo=True),
    request_id="",
    priority=1,
)
_CHAT = pb.Generation(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")]))
SEEDS: dict[str, list[Any]] = {
    "Generate": [pb.GenerateRequest(generation=each) for each in (_GENERATION, _CHAT)],
    "GenerateStream": [pb.GenerateStreamRequest(generation=each) for each in (_GENERATION, _CHAT)],
    "GenerateBatch": [pb.GenerateBatchRequest(generations=[_GENERATION, _CHAT])],
    "Tokenize": [pb.TokenizeRequest(text="one two", details=True)],
    "Detokenize": [pb.DetokenizeRequest(token_ids=[40, 41, 42])],
    "Abort": [pb.AbortRequest(request_ids=["a", "b"])],
    "GetLoad": [pb.GetLoadRequest()],
}

_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "\0", " ", "(" * 200, "a" * 5000, "é" * 300, "(a+)+$", '{"type": "object"}']
    ),
)
_UNSIGNED = st.one_of(
    st.integers(0, 70), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1)
)
_FLOATS = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, 1e-38, 3.4e38, float("nan")])
)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: _TEXTS,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_FLOAT: _FLOATS,
    FieldDescriptor.TYPE_UINT32: _UNSIGNED,
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(-101, 101),
}


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes for a method."""

    method: str
    data: bytes


@st.composite
def changed_fields(draw: st.DrawFn, message: Any) -> Any:
    """The message with some fields, at any depth, set to something else."""
    made = type(message)()
    made.CopyFrom(message)
    for _ in range(draw(st.integers(1, 4))):
        _change(draw, made)
    return made


def _change(draw: st.DrawFn, message: Any) -> None:
    descriptor: Descriptor = message.DESCRIPTOR
    if not descriptor.fields:
        return
    field = draw(st.sampled_from(list(descriptor.fields)))
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for key in draw(st.lists(_UNSIGNED, max_size=3)):
            value[key] = draw(_FLOATS)
    elif field.message_type is not None and hasattr(value, "add"):
        _change(draw, value.add())
    elif field.message_type is not None:
        value.SetInParent()
        _change(draw, value)
    elif hasattr(value, "extend"):
        times = draw(st.sampled_from([1, 1, 2, 70]))
        value.extend([draw(_SCALARS[field.type])] * times)
    else:
        setattr(message, field.name, draw(_SCALARS[field.type]))


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some flipped, cut out, doubled or put in."""
    made = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(made)))
        end = min(len(made), at + draw(st.integers(0, 8)))
        match draw(st.sampled_from(["set", "cut", "double", "put"])):
            case "set" if at < len(made):
                made[at] = draw(st.integers(0, 255))
            case "cut":
                del made[at:end]
            case "double":
                made[at:at] = made[at:end]
            case _:
                made[at:at] = draw(st.binary(max_size=12))
    return bytes(made)


@st.composite
def inputs(draw: st.DrawFn) -> Input:
    """Mostly generations; noise, changed bytes and changed fields in equal parts."""
    method = draw(st.sampled_from(["Generate"] * 4 + ["GenerateStream"] * 3 + list(SEEDS)))
    seed = draw(st.sampled_from(SEEDS[method]))
    match draw(st.sampled_from(["fields", "fields", "bytes", "noise"])):
        case "fields":
            data: bytes = draw(changed_fields(seed)).SerializeToString()
        case "bytes":
            data = draw(changed_bytes(seed.SerializeToString()))
        case _:
            data = draw(st.binary(max_size=200))
    return Input(method, data)


def send(channel: grpc.Channel, given: Input) -> grpc.StatusCode:
    """The status that an input ends with."""
    raw: Any = channel  # without serializers it takes and gives bytes, which its types do not say
    path = SERVICE + given.method
    try:
        if given.method == "GenerateStream":
            for _ in raw.unary_stream(path)(given.data, timeout=_WAIT_S):
                pass
        else:
            raw.unary_unary(path)(given.data, timeout=_WAIT_S)
    except grpc.RpcError as error:
        failed: Any = error
        code: grpc.StatusCode = failed.code()
        return code
    return grpc.StatusCode.OK

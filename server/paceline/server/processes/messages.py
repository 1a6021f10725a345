"""What the engine and its front ends tell each other, and how it looks on their sockets. Pure.

A front end numbers its requests: completion `index` of a request has the slot `first + index`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import PacelineError, from_wire, to_wire
from ..request import Finish, FinishReason, Load, Request, TokenLogprobs


def control(generation: int) -> str:
    """In the server's folder: where an engine, the first or a later one, takes requests.

    Each has a socket of its own, so that nothing meant for a dead one reaches the next.
    """
    return f"engine-{generation}.sock"


class Hello(msgspec.Struct, tag=True):
    """A front end is there and takes outputs at this endpoint."""

    endpoint: str
    serial: int


class Submit(msgspec.Struct, tag=True):
    """A request, answered with Accepted or Refused. `again`: an engine that died had accepted it."""

    first: int
    request: Request
    fingerprint: bytes
    again: bool = False


class Cancel(msgspec.Struct, tag=True):
    """Ends the completions of a request of this front end, or one of them."""

    first: int
    request_id: str
    reason: FinishReason
    index: int | None


class Abort(msgspec.Struct, tag=True):
    """Ends requests of any front end, all for None; answered with Aborted."""

    call: int
    request_ids: list[str] | None


class AskLoad(msgspec.Struct, tag=True):
    """Answered with LoadIs."""

    call: int


class Accepted(msgspec.Struct, tag=True):
    first: int


class Refused(msgspec.Struct, tag=True):
    first: int
    error: Exception


class Aborted(msgspec.Struct, tag=True):
    call: int
    count: int


class LoadIs(msgspec.Struct, tag=True):
    call: int
    load: Load


class Busy(msgspec.Struct, tag=True):
    """How many completions of other front ends the engine has: told now and then where there are several engines."""

    others: int


class Other(msgspec.Struct, array_like=True):
    """An output that is more than one plain token."""

    slot: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish: Finish | None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()


class Outputs(msgspec.Struct, array_like=True):
    """All that a step made for one front end: mostly a token for each slot, in parallel lists.

    `others` come after the plain tokens of their slots. With `last` nothing follows any more.
    """

    slots: list[int]
    tokens: list[int]
    others: list[Other]
    last: bool = False


ToEngine = Hello | Submit | Cancel | Abort | AskLoad
ToFrontend = Accepted | Refused | Aborted | LoadIs | Busy


def _encode_other(value: Any) -> Any:
    if isinstance(value, PacelineError):
        return to_wire(value)
    raise NotImplementedError(f"{type(value).__name__} does not travel between processes")


def _decode_other(kind: type, value: Any) -> Any:
    if kind is Exception:
        return from_wire(value[0], value[1])
    raise NotImplementedError(f"{kind.__name__} does not travel between processes")


encode = msgspec.msgpack.Encoder(enc_hook=_encode_other).encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine, dec_hook=_decode_other).decode
decode_to_frontend = msgspec.msgpack.Decoder(ToFrontend, dec_hook=_decode_other).decode
decode_outputs = msgspec.msgpack.Decoder(Outputs, dec_hook=_decode_other).decode

"""What the load generator needs of a protocol: to send one prompt and to count the tokens that come back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from paceline.loadgen.prompt import Prompt
from paceline.loadgen.timing import ServerTimings

# Called as soon as a message with tokens is there, with how many it holds, how many came before it by the server's
# own count, and its text. Whether its reader wants more.
Take = Callable[[int, int, str], bool]


class WireError(Exception):
    """A request that ended badly: gRPC's name of the status, whatever the protocol, and the server's words."""

    def __init__(self, status: str, details: str) -> None:
        super().__init__(f"{status}: {details}")
        self.status = status
        self.details = details


@dataclass(slots=True)
class Said:
    """What a server says beside tokens, filled in as it comes.

    Attributes:
        output_tokens: by the server's count at the end; None where it gave none.
        shared_out: messages did not say how many tokens they hold: `output_tokens` is to be spread over them.
        trace_id: what the server was told to trace it under, 32 hex digits; empty: nothing.
    """

    prompt_tokens: int = 0
    output_tokens: int | None = None
    cached_tokens: int = 0
    finish: str = ""
    server: ServerTimings | None = None
    shared_out: bool = False
    trace_id: str = ""


class Exchange(Protocol):
    """One request, ready to be sent."""

    said: Said

    def run(self, timeout_s: float, take: Take) -> bool:
        """Send and read to the end. False where `take` wanted no more before the end. Raises WireError."""

    def cancel(self) -> None:
        """End it from another greenlet or thread; `run` then raises CANCELLED. No harm before or after."""


class Wire(Protocol):
    """The connections of one process to one server."""

    protocol: str
    target: str

    def connect(self, timeout_s: float) -> str:
        """Open what no measured request should have to. What went wrong, or nothing."""

    def context_tokens(self, timeout_s: float) -> int:
        """Tokens that prompt and answer may have together; 0 where the server does not say."""

    def exchange(self, prompt: Prompt) -> Exchange:
        """The request for this prompt's work; sends nothing yet. Raises WireError if it cannot be written."""

    def close(self) -> None: ...


def spread(tokens: Sequence[int], total: int) -> list[int]:
    """`total` tokens shared out evenly over as many messages as `tokens` has; as they were with fewer tokens than that.

    For servers that say only at the end how many tokens there were: a message may hold several.
    """
    messages = len(tokens)
    if total <= messages:
        return list(tokens)
    ends = [total * (place + 1) // messages for place in range(messages)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]

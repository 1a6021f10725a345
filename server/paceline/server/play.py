"""A prompt from the page on its way to the service: between a web thread and an event loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, eq=False)
class Play:
    """One request of the playground.

    Attributes:
        body: a GenerateStreamRequest in protobuf's JSON.
        authorization: what the service gets under this name; empty: nothing.
        put: takes each line of the answer, a GenerateStreamResponse in JSON or a `failure`, and b"" at its end.
    """

    body: bytes
    authorization: str
    put: Callable[[bytes], None]


class Player(Protocol):
    """Has plays answered. Belongs to an event loop."""

    def begin(self, play: Play) -> None:
        """From now on lines are put."""
        ...

    def cancel(self, play: Play) -> None:
        """Nobody waits for the answer any more. One that has ended is no error."""
        ...


def failure(status: str, message: str, violations: list[dict[str, str]] | None = None) -> bytes:
    """The line of an answer that ends with this gRPC status."""
    error = {"status": status, "message": message, "violations": violations or []}
    return json.dumps({"error": error}).encode()

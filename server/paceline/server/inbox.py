"""What the engine is told by other threads."""

from __future__ import annotations

from dataclasses import dataclass

from .request import FinishReason, Request


@dataclass(frozen=True, slots=True)
class Submit:
    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str
    reason: FinishReason
    index: int | None


@dataclass(frozen=True, slots=True)
class Stop:
    reason: FinishReason


Message = Submit | Cancel | Stop

"""What the engine is told by other threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .request import FinishReason, Request

if TYPE_CHECKING:
    from .errors import PacelineError
    from .guidance import Guide


@dataclass(frozen=True, slots=True)
class Submit:
    request: Request
    guide: Guide | None = (
        None  # at its beginning; None: it has no constraint, or that is to be compiled
    )


@dataclass(frozen=True, slots=True)
class Compiled:
    """A request's constraint: a guide at its beginning, or why there is none."""

    request: Request
    guide: Guide | PacelineError


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str
    reason: FinishReason
    index: int | None


@dataclass(frozen=True, slots=True)
class Stop:
    reason: FinishReason


Message = Submit | Compiled | Cancel | Stop

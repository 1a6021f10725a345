"""Who a call is from, where callers show tokens."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from .quota import Quota


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """The holder of a bearer token. `admin`: may abort the requests of all."""

    name: str
    admin: bool
    quota: Quota


# Of the call that this task answers; None where the server asks for no tokens.
current: ContextVar[Caller | None] = ContextVar("paceline_caller", default=None)

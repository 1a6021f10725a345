"""Who a call is from, where callers show tokens."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from .errors import InvalidRequest, Violation
from .quota import Quota


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """The holder of a bearer token. `admin`: may abort the requests of all."""

    name: str
    admin: bool
    quota: Quota

    def enter(self, amount: int, now: float, field: str) -> None:
        """Lets so many completions in, to be given back by `quota.leave`.

        InvalidRequest, under `field`, for more than this caller can ever have; LimitReached if not now.
        """
        most = self.quota.most
        if most is not None and amount > most:
            raise InvalidRequest(
                Violation(field, f"this token may run {most} requests at once, not {amount}")
            )
        self.quota.enter(amount, now)


# Of the call that this task answers; None where the server asks for no tokens.
current: ContextVar[Caller | None] = ContextVar("paceline_caller", default=None)

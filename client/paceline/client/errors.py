"""Everything the client raises on purpose. `_status` is the one place that makes these from gRPC statuses.

PacelineError
├── InvalidRequest        a bad field, a prompt that does not fit; `violations` names the fields
├── QueueFull             no room in the queue, or in this token's limits; `retry_after_s` says when to come back
├── Unavailable           no server there, draining, or its engine is restarting
├── DeadlineExceeded      the deadline (`timeout_s`) passed
├── Cancelled             the call was cancelled
├── Aborted               gRPC's ABORTED, from something in between
├── FeatureUnavailable    this server was not loaded with what was asked for
├── Unauthenticated       no token, a wrong one, or no right to call
├── MessageTooLarge       request or answer over the limit on one message
└── ServerError           a fault of the server's; its log has the error id in the message
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its path as in the contract ("generation.sampling.top_p"), and what is wrong with it."""

    field: str
    description: str


class PacelineError(Exception):
    """Base of all errors of the client. `code` is the gRPC status' name, `retry_after_s` the server's advice."""

    code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_s: float | None = None,
        violations: tuple[Violation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s
        self.violations = violations

    def __repr__(self) -> str:
        told = f"{type(self).__name__}({str(self)!r}, code={self.code!r}"
        return told + (
            ")" if self.retry_after_s is None else f", retry_after_s={self.retry_after_s:g})"
        )


class InvalidRequest(PacelineError):
    """The request itself is wrong, and stays wrong when sent again."""

    code = "INVALID_ARGUMENT"


class QueueFull(PacelineError):
    """The queue is full, or this token's limits are reached; gRPC's own retries are already used up."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(PacelineError):
    """No server answered, or it is going away or not up yet; gRPC's own retries are already used up."""

    code = "UNAVAILABLE"


class DeadlineExceeded(PacelineError):
    """The deadline passed before the answer was complete."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(PacelineError):
    """The call was cancelled before the answer was complete."""

    code = "CANCELLED"


class Aborted(PacelineError):
    """ABORTED, from something in between: `abort` and a drain that is cut short give an answer."""

    code = "ABORTED"


class FeatureUnavailable(PacelineError):
    """Asked for something this server does not offer."""

    code = "FAILED_PRECONDITION"


class Unauthenticated(PacelineError):
    """The server wants a token or a certificate, or does not accept the one it got."""

    code = "UNAUTHENTICATED"


class MessageTooLarge(PacelineError):
    """A request or an answer is larger than one message may be."""

    code = "RESOURCE_EXHAUSTED"


class ServerError(PacelineError):
    """The server failed; the message holds the error id to look for in its log."""

    code = "INTERNAL"

"""The exception tree. Each class carries the gRPC status it becomes; one place in `rpc` maps it.

PacelineError
├── InvalidRequest        INVALID_ARGUMENT, with field paths
├── QueueFull             RESOURCE_EXHAUSTED, with a retry delay
├── LimitReached          RESOURCE_EXHAUSTED, with a retry delay: this caller's own limit
├── Unauthenticated       UNAUTHENTICATED
├── PermissionDenied      PERMISSION_DENIED
├── Unavailable           UNAVAILABLE, with a retry delay (draining, engine restarting)
├── DeadlineExceeded      DEADLINE_EXCEEDED
├── FeatureUnavailable    FAILED_PRECONDITION
├── EngineFailure         INTERNAL, fixed text and an error id
├── OutOfMemory           RESOURCE_EXHAUSTED: the request alone is more than the device holds
└── SetupError            never on the wire: one line for the operator, exit code 2

StepOutOfMemory is none of them: it is a runner's word to the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its path as in the contract, and what is wrong with it."""

    field: str
    description: str


class PacelineError(Exception):
    """Base of all errors this package raises on purpose."""

    status = "INTERNAL"
    refusal = ""  # why nothing was computed, in a word for metrics; empty where something was
    retry_after_s: float | None = None

    @property
    def parts(self) -> tuple[object, ...]:
        """What the error is made of, in the order of its constructor: strings, numbers, pairs of them."""
        return (str(self),)


class InvalidRequest(PacelineError):
    """The caller's fault: bad fields, a prompt that does not fit, an unknown token id."""

    status = "INVALID_ARGUMENT"
    refusal = "invalid"

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations

    @property
    def parts(self) -> tuple[object, ...]:
        return tuple((v.field, v.description) for v in self.violations)


class QueueFull(PacelineError):
    """The bounded queue has no room for this request now."""

    status = "RESOURCE_EXHAUSTED"
    refusal = "queue_full"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def parts(self) -> tuple[object, ...]:
        return (str(self), self.retry_after_s)


class LimitReached(PacelineError):
    """The caller asks for more than its token allows now."""

    status = "RESOURCE_EXHAUSTED"
    refusal = "limit"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unauthenticated(PacelineError):
    """No token, or not a good one."""

    status = "UNAUTHENTICATED"
    refusal = "unauthenticated"


class PermissionDenied(PacelineError):
    """A good token that does not allow this."""

    status = "PERMISSION_DENIED"
    refusal = "forbidden"


class Unavailable(PacelineError):
    """Going away, or the engine is not up; another server, or this one later, may answer."""

    status = "UNAVAILABLE"
    refusal = "unavailable"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def parts(self) -> tuple[object, ...]:
        return (str(self), self.retry_after_s)


class DeadlineExceeded(PacelineError):
    """The call's deadline passed, in the queue or while decoding."""

    status = "DEADLINE_EXCEEDED"


class FeatureUnavailable(PacelineError):
    """Asked for something this server was not loaded with."""

    status = "FAILED_PRECONDITION"
    refusal = "feature"


class EngineFailure(PacelineError):
    """A fault of ours. The caller gets a fixed text and `error_id`; the log has the rest."""

    status = "INTERNAL"

    def __init__(self, error_id: str) -> None:
        super().__init__(f"internal error {error_id}")
        self.error_id = error_id

    @property
    def parts(self) -> tuple[object, ...]:
        return (self.error_id,)


class OutOfMemory(PacelineError):
    """The device has no memory for this request, though it was computed alone and in the smallest steps."""

    status = "RESOURCE_EXHAUSTED"

    def __init__(self) -> None:
        super().__init__("the device has not enough memory for this request")

    @property
    def parts(self) -> tuple[object, ...]:
        return ()


class StepOutOfMemory(Exception):
    """A step did not fit into the device's memory; its rows are computed again, in smaller steps."""


class SetupError(PacelineError):
    """The operator's to mend, found before serving: one line that says what to do."""


_KINDS: dict[str, type[PacelineError]] = {
    kind.__name__: kind
    for kind in (
        QueueFull,
        Unavailable,
        DeadlineExceeded,
        FeatureUnavailable,
        EngineFailure,
        OutOfMemory,
        SetupError,
    )
}


def to_wire(error: PacelineError) -> tuple[str, tuple[object, ...]]:
    """An error for another process: the name of its class and its parts."""
    return type(error).__name__, error.parts


def from_wire(kind: str, parts: Sequence[Any]) -> PacelineError:
    """The same error again. KeyError for a class that is none of ours."""
    if kind == InvalidRequest.__name__:
        return InvalidRequest(*(Violation(field, description) for field, description in parts))
    return _KINDS[kind](*parts)


# What `PacelineError.refusal` may say.
REFUSALS = tuple(
    error.refusal
    for error in (
        InvalidRequest,
        QueueFull,
        LimitReached,
        Unauthenticated,
        PermissionDenied,
        Unavailable,
        FeatureUnavailable,
    )
)

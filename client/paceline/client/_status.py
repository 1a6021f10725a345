"""gRPC statuses to exceptions: the one place that maps them."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from paceline.client import errors
from paceline.client.errors import PacelineError, Violation

PUSHBACK_KEY = "grpc-retry-pushback-ms"

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CLASSES: dict[grpc.StatusCode, type[PacelineError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.QueueFull,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.ABORTED: errors.Aborted,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FeatureUnavailable,
    grpc.StatusCode.UNIMPLEMENTED: errors.FeatureUnavailable,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.Unauthenticated,
}
# How gRPC itself words a message over the limit; the status alone cannot be told from a full queue.
_TOO_LARGE = "larger than max"


def from_rpc_error(error: grpc.RpcError) -> PacelineError:
    """The exception for a failed call, sync or async, with what its rich details hold."""
    call: Any = error  # grpc's own error classes are calls too, which its types do not say
    code, message = call.code(), call.details() or ""
    violations, retry_after_s = _details(call)
    return from_code(code.value[0], message, violations=violations, retry_after_s=retry_after_s)


def from_code(
    number: int,
    message: str,
    *,
    violations: tuple[Violation, ...] = (),
    retry_after_s: float | None = None,
) -> PacelineError:
    """The exception for a status code; codes without a class of their own become ServerError."""
    code = _CODES.get(number, grpc.StatusCode.UNKNOWN)
    cls = _CLASSES.get(code, errors.ServerError)
    if cls is errors.QueueFull and _TOO_LARGE in message:
        cls = errors.MessageTooLarge
    return cls(
        message or code.name, code=code.name, retry_after_s=retry_after_s, violations=violations
    )


def _details(call: Any) -> tuple[tuple[Violation, ...], float | None]:
    """Field violations and retry delay from google.rpc details, else from the pushback trailer."""
    violations: list[Violation] = []
    retry_after_s = _pushback_s(call)
    for detail in _rich_details(call):
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad_request = error_details_pb2.BadRequest.FromString(detail.value)
            violations += [Violation(v.field, v.description) for v in bad_request.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
    return tuple(violations), retry_after_s


def _rich_details(call: Any) -> list[Any]:
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # details that disagree with the status they came with
        return []
    return list(status.details) if status is not None else []


def _pushback_s(call: Any) -> float | None:
    for key, value in call.trailing_metadata() or ():
        if key == PUSHBACK_KEY and str(value).isdecimal():
            return int(value) / 1000
    return None

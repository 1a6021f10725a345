"""The one place where an error becomes a gRPC status. No exception text of ours or of a library goes on the wire."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from paceline.v1 import generation_pb2 as pb

from .errors import EngineFailure, InvalidRequest, PacelineError

logger = logging.getLogger(__name__)

# Status details travel as a trailer, and all trailers together have 8 KiB.
_MAX_TEXT = 300


def public_error(error: Exception) -> PacelineError:
    """The error as the caller may see it; anything unexpected is logged and becomes an EngineFailure."""
    if isinstance(error, PacelineError):
        return error
    failure = EngineFailure(uuid.uuid4().hex[:12])
    logger.error("unexpected error error_id=%s", failure.error_id, exc_info=error)
    return failure


async def abort(context: grpc.aio.ServicerContext[object, object], error: PacelineError) -> None:
    """Ends the call with the error's status, its details, and when to retry. Raises."""
    status = rpc_status.to_status(_status(error))
    trailers = tuple(status.trailing_metadata)
    if error.retry_after_s is not None:
        trailers += (("grpc-retry-pushback-ms", _pushback(error.retry_after_s, context)),)
    await context.abort(status.code, status.details, trailers)


def _pushback(retry_after_s: float, context: Any) -> str:
    """Milliseconds after which the caller's gRPC tries again; -1, never, where its deadline comes first."""
    left_s = context.time_remaining()
    if left_s is not None and left_s <= retry_after_s:
        return "-1"
    return str(round(retry_after_s * 1e3))


def item_error(error: PacelineError) -> pb.ItemError:
    """The error of one item of a batch."""
    violations = error.violations if isinstance(error, InvalidRequest) else ()
    return pb.ItemError(
        code=_code(error),
        message=_clip(str(error)),
        retry_after_ms=round((error.retry_after_s or 0.0) * 1e3),
        violations=[
            pb.FieldViolation(field=v.field, description=v.description) for v in violations
        ],
    )


def _status(error: PacelineError) -> status_pb2.Status:
    details = []
    if isinstance(error, InvalidRequest):
        details.append(_bad_request(error))
    if error.retry_after_s is not None:
        details.append(_retry_info(error.retry_after_s))
    return status_pb2.Status(code=_code(error), message=_clip(str(error)), details=details)


def _bad_request(error: InvalidRequest) -> any_pb2.Any:
    return _any(
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=_clip(v.field), description=_clip(v.description)
                )
                for v in error.violations
            ]
        )
    )


def _retry_info(seconds: float) -> any_pb2.Any:
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(round(seconds * 1e3))
    return _any(error_details_pb2.RetryInfo(retry_delay=delay))


def _any(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _code(error: PacelineError) -> int:
    code: int = grpc.StatusCode[error.status].value[0]
    return code


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"

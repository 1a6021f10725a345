"""The one place where an error becomes an HTTP answer, in OpenAI's form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import msgspec
from starlette.responses import Response

from ..errors import InvalidRequest, OutOfMemory, PacelineError
from .asked import renamed

_MAX_TEXT = 2000
_INVALID = "invalid_request_error"
# By gRPC's status: HTTP's, OpenAI's type, and a code.
_KINDS: dict[str, tuple[HTTPStatus, str, str | None]] = {
    "INVALID_ARGUMENT": (HTTPStatus.BAD_REQUEST, _INVALID, None),
    "FAILED_PRECONDITION": (HTTPStatus.BAD_REQUEST, _INVALID, "unsupported"),
    "UNAUTHENTICATED": (HTTPStatus.UNAUTHORIZED, _INVALID, "invalid_api_key"),
    "PERMISSION_DENIED": (HTTPStatus.FORBIDDEN, _INVALID, "forbidden"),
    "NOT_FOUND": (HTTPStatus.NOT_FOUND, _INVALID, None),
    "RESOURCE_EXHAUSTED": (HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded"),
    "UNAVAILABLE": (HTTPStatus.SERVICE_UNAVAILABLE, "server_error", "unavailable"),
    "DEADLINE_EXCEEDED": (HTTPStatus.GATEWAY_TIMEOUT, "server_error", "deadline_exceeded"),
    "INTERNAL": (HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "internal_error"),
}


class HttpFault(PacelineError):
    """What only HTTP can get wrong: its path, its method, the size or the type of a body."""

    status = "INVALID_ARGUMENT"
    refusal = "invalid"

    def __init__(self, http: int, message: str) -> None:
        super().__init__(message)
        self.http = http


class UnknownModel(PacelineError):
    """Another model than the one that is served."""

    status = "NOT_FOUND"
    refusal = "invalid"

    def __init__(self, asked: str, served: str) -> None:
        super().__init__(f"there is no model {asked[:200]!r}; this server has {served!r}")


def failure(error: PacelineError, names: Mapping[str, str] = MappingProxyType({})) -> Response:
    """The answer of a request that came to nothing. `names`: the caller's, for the fields of the contract."""
    body = error_body(error, names)
    return Response(body, _http_status(error), _headers(error), "application/json")


def _http_status(error: PacelineError) -> int:
    if isinstance(error, HttpFault):
        return error.http
    if isinstance(error, OutOfMemory):  # it never fits: to come back would not help
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return _KINDS[error.status][0]


def error_body(error: PacelineError, names: Mapping[str, str]) -> bytes:
    """Its JSON."""
    _, kind, code = _KINDS[error.status]
    message, param = str(error), None
    if isinstance(error, InvalidRequest):
        violations = renamed(error.violations, names)
        message = "; ".join(f"{v.field}: {v.description}" for v in violations)
        param = violations[0].field if violations else None
    if isinstance(error, UnknownModel):
        param, code = "model", "model_not_found"
    told: dict[str, Any] = {
        "message": message[:_MAX_TEXT],
        "type": kind,
        "param": param,
        "code": code,
    }
    return msgspec.json.encode({"error": told})


def _headers(error: PacelineError) -> dict[str, str]:
    """When to come back, and what to show."""
    if error.status == "UNAUTHENTICATED":
        return {"www-authenticate": "Bearer"}
    if error.retry_after_s is None:
        return {}
    # Whole seconds are the standard's, milliseconds are OpenAI's.
    return {
        "retry-after": str(math.ceil(error.retry_after_s)),
        "retry-after-ms": str(math.ceil(error.retry_after_s * 1e3)),
    }

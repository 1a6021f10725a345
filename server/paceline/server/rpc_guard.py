"""Stands around every method of our service: messages that do not parse, and errors, end as a clean status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from . import wire
from .calls import Calls
from .errors import InvalidRequest, Violation
from .rpc_errors import abort, public_error

Continuation = Callable[
    [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
]


class Guard(grpc.aio.ServerInterceptor):
    """Wraps the methods of one service.

    Args:
        service: its full name.
        requests: the request type of each method, by the method's name.
        calls: counts those being answered.
    """

    def __init__(self, service: str, requests: dict[str, Any], calls: Calls) -> None:
        self._requests = {f"/{service}/{name}": kind for name, kind in requests.items()}
        self._wrapped: dict[str, Any] = {}
        self._calls = calls

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        method = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None or method not in self._requests:
            return handler
        self._wrapped[method] = _wrap(handler, self._requests[method], self._calls)
        return self._wrapped[method]


def _wrap(handler: Any, request_type: Any, calls: Calls) -> Any:
    def deserialize(data: bytes) -> Any:
        return wire.parse(request_type, data)

    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(
            _guard_stream(handler.unary_stream, calls), deserialize, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        _guard_unary(handler.unary_unary, calls), deserialize, handler.response_serializer
    )


def _guard_unary(behaviour: Any, calls: Calls) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        with calls:
            try:
                _refuse_malformed(request)
                return await behaviour(request, context)
            except Exception as exc:
                return await _end(context, exc)

    return answer


def _guard_stream(behaviour: Any, calls: Calls) -> Any:
    # A coroutine that writes, so that the generator is closed at once when the call is cancelled.
    async def answer(request: Any, context: Any) -> None:
        with calls:
            try:
                _refuse_malformed(request)
                async with contextlib.aclosing(behaviour(request, context)) as messages:
                    async for message in messages:
                        await context.write(message)
            except Exception as exc:
                await _end(context, exc)

    return answer


def _refuse_malformed(request: Any) -> None:
    if isinstance(request, wire.Malformed):
        raise InvalidRequest(Violation(request.field, request.description))


async def _end(context: Any, error: Exception) -> None:
    if context.cancelled() or context.done():  # nobody is there to be told
        raise asyncio.CancelledError from error
    try:
        await abort(context, public_error(error))
    except grpc.aio.InternalError as exc:  # the call ended just now
        raise asyncio.CancelledError from exc

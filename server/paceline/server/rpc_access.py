"""Stands before every method: who shows no good token gets in nowhere but to health, and nobody gets too much."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc

from . import caller
from .bearer import Tokens
from .caller import Caller
from .errors import PacelineError, PermissionDenied, Unauthenticated
from .logs import RequestRecord
from .rpc_errors import abort
from .rpc_guard import Continuation
from .validation import MAX_BATCH_ITEMS, MAX_COMPLETIONS

_OPEN = "/grpc.health.v1.Health/"  # probes and load balancers have no tokens
_SHOWN = 100  # characters of an unknown method in the log


class Access(grpc.aio.ServerInterceptor):
    """Knows callers by their tokens.

    Args:
        service: the service whose working methods count toward a caller's limits.
        answered: told the status of each call that is refused here, and why.
    """

    def __init__(
        self,
        tokens: Tokens,
        service: str,
        answered: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._prefix = f"/{service}/"
        self._checked = {self._prefix + name: check for name, check in _CHECKED.items()}
        self._wrapped: dict[str, Any] = {}
        self._answered = answered
        self._clock = clock

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        method = handler_call_details.method
        if method.startswith(_OPEN):
            return await continuation(handler_call_details)
        found = self._caller(handler_call_details.invocation_metadata)
        if found is None:
            return self._refusal(method)
        caller.current.set(found)  # this task answers the call, too
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None or method not in self._checked:
            return handler
        self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _caller(self, metadata: Any) -> Caller | None:
        return self._tokens.shown(
            [value for key, value in metadata or () if key == "authorization"]
        )

    def _refusal(self, method: str) -> Any:
        async def refuse(_: Any, context: Any) -> None:
            # The same answer whatever was wrong, and whether or not there is such a method.
            await self._end(method, context, Unauthenticated("a bearer token is needed"))

        # Streams both ways: the answer waits for no message, and none is parsed.
        return grpc.stream_stream_rpc_method_handler(refuse)

    def _wrap(self, method: str, handler: Any) -> Any:
        check = self._checked[method]
        streaming = handler.response_streaming
        behaviour = handler.unary_stream if streaming else handler.unary_unary

        async def answer(request: Any, context: Any) -> Any:
            who = caller.current.get()
            assert who is not None
            try:
                amount = check(request, who)
                who.enter(amount, self._clock(), _field(request))
            except PacelineError as exc:
                return await self._end(method, context, exc)
            try:
                return await behaviour(request, context)
            finally:
                who.quota.leave(amount)

        make = (
            grpc.unary_stream_rpc_method_handler
            if streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(answer, handler.request_deserializer, handler.response_serializer)

    async def _end(self, method: str, context: Any, error: PacelineError) -> None:
        name = method.removeprefix(self._prefix)[:_SHOWN]
        try:
            with RequestRecord(name, context.peer(), self._answered):
                raise error
        except PacelineError:
            await abort(context, error)


def _field(request: Any) -> str:
    """What says how many completions there are."""
    return "generations" if hasattr(request, "generations") else "generation.sampling.n"


def _one(request: Any, who: Caller) -> int:
    return 1


def _generation(request: Any, who: Caller) -> int:
    """Completions are what costs. A message that does not parse costs one."""
    return _completions(getattr(request, "generation", None))


def _batch(request: Any, who: Caller) -> int:
    generations = getattr(request, "generations", ())[:MAX_BATCH_ITEMS]
    return max(1, sum(_completions(generation) for generation in generations))


def _completions(generation: Any) -> int:
    return 1 if generation is None else min(MAX_COMPLETIONS, max(1, generation.sampling.n))


def _abort(request: Any, who: Caller) -> int:
    """Costs nothing: whoever runs all that he may must be able to end some of it."""
    if getattr(request, "all", False) and not who.admin:
        raise PermissionDenied("only an admin's token may abort all requests")
    return 0


# Methods that make the server work, and what a call counts; all others cost next to nothing and are not counted.
_CHECKED: dict[str, Callable[[Any, Caller], int]] = {
    "Generate": _generation,
    "GenerateStream": _generation,
    "GenerateBatch": _batch,
    "Tokenize": _one,
    "Detokenize": _one,
    "Abort": _abort,
}

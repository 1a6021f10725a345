"""A gRPC server without a port: grpc.aio's handlers and interceptors, called by whoever holds the port instead."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from .bearer import Tokens
from .config import ServeConfig
from .listener import Listener
from .rpc import Observer

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):
    """What interceptors are told of a call."""

    method: str
    invocation_metadata: Metadata


class Ended(Exception):
    """A call ends with this status instead of an answer."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Metadata) -> None:
        super().__init__(code, details, trailers)  # all of them, so that it can be pickled
        self.code = code
        self.details = details
        self.trailers = trailers


class LocalCall:
    """The part of grpc.aio's context that our services use. A call has no deadline here: it is cancelled."""

    def __init__(self, metadata: Metadata, peer: str) -> None:
        self.metadata = metadata
        self._peer = peer
        # Of one message, so that a slow reader holds back his own call alone.
        self.messages: asyncio.Queue[Any] = asyncio.Queue(1)

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Metadata:
        return self.metadata

    def time_remaining(self) -> float | None:
        return None

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return False

    async def write(self, message: Any) -> None:
        await self.messages.put(message)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> None:
        raise Ended(code, details, trailing_metadata)


class LocalServer:
    """Plays grpc.aio's server for `add_…Servicer_to_server`."""

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}
        self._find: Callable[[grpc.HandlerCallDetails], Any] = self._registered

    def intercept(self, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> None:
        """From now on these stand before the methods, the first one outermost."""
        for interceptor in reversed(interceptors):
            self._find = functools.partial(interceptor.intercept_service, self._find)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Generated code registers each method in both ways."""

    async def unary(self, method: str, request: Any, call: LocalCall) -> Any:
        """The answer. Raises Ended."""
        behaviour = await self._behaviour(method, call)
        return await behaviour(request, call)

    async def stream(self, method: str, request: Any, call: LocalCall) -> AsyncGenerator[Any, None]:
        """The answers. Raises Ended. Closing it early cancels the call."""

        async def answer() -> None:
            end: Exception = StopAsyncIteration()
            try:
                behaviour = await self._behaviour(method, call)
                await behaviour(request, call)
            except Exception as exc:
                end = exc
            await call.messages.put(end)

        task = asyncio.create_task(answer())
        try:
            while not isinstance(message := await call.messages.get(), Exception):
                yield message
            if not isinstance(message, StopAsyncIteration):
                raise message
        finally:
            task.cancel()

    async def _behaviour(self, method: str, call: LocalCall) -> Any:
        handler = await self._find(_Details(method, call.metadata))
        if handler is None:
            raise Ended(grpc.StatusCode.UNIMPLEMENTED, f"there is no method {method}", ())
        # A refusal by an interceptor is a handler of its own kind, see `rpc_access`.
        return handler.unary_unary or handler.unary_stream or handler.stream_stream

    async def _registered(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(details.method)


class LocalListener(Listener):
    """A listener whose calls come by a LocalServer alone."""

    def __init__(self, server: LocalServer, config: ServeConfig, observer: Observer) -> None:
        super().__init__(config, observer)
        self._local = server

    async def bind(
        self,
        port: int,
        http_port: int | None = None,
        *,
        shared: bool = False,
        private: Path | None = None,
    ) -> tuple[int, int | None]:
        """Takes no port, not even that for HTTP."""
        self._local.intercept(self._interceptors(Tokens.of(self._config)))
        self._offer(self._local)
        await self.not_serving()
        return 0, None

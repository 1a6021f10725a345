"""Paceline on Ray Serve: a replica is a whole server, but for the port, which Serve's own proxy holds.

Needs the extra `ray`. `deploy/ray/` starts it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf import empty_pb2
from grpc_health.v1 import health
from pydantic import BaseModel
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext

from .app import App
from .config import ServeConfig
from .errors import SetupError
from .local_server import Ended, LocalCall, LocalListener, LocalServer
from .mock_loader import load_mock
from .rpc import SERVICE
from .settings import read
from .torch_loader import load_torch

# What the proxy is told to offer, as `grpc_servicer_functions`.
SERVICERS = [
    "paceline.v1.generation_pb2_grpc.add_GenerationServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
]
_FOREIGN = ("tls_cert", "tls_key", "tls_client_ca", "frontends")
_RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Options(BaseModel, extra="forbid"):
    """The application's arguments."""

    flags: list[str] = []
    """Those of `paceline serve`; what concerns its port and its processes cannot be had."""


def deployment(flags: list[str]) -> serve.Deployment:
    """One that computes full batches; its replicas are still to be bound to the same flags. SetupError."""
    # A replica must hold more requests than a batch has rows, or it never computes a full one.
    most = 2 * _configured(flags).max_batch_size
    return serve.deployment(Paceline).options(
        max_ongoing_requests=most, logging_config={"enable_access_log": False}
    )


def application(arguments: dict[str, Any]) -> serve.Application:
    """What `serve run` builds of a file's `args`, which are `Options`. SetupError where a flag is no good."""
    flags = Options.model_validate(arguments).flags
    return deployment(flags).bind(flags)


def _unary(service: str, name: str) -> Callable[..., Any]:
    async def answer(self: Paceline, request: Any, grpc_context: RayServegRPCContext) -> Any:
        try:
            return await self.server.unary(f"/{service}/{name}", request, _call(grpc_context))
        except Ended as end:
            _set_status(grpc_context, end)
            return empty_pb2.Empty()  # the status goes with it, and it is left out

    return answer


def _streaming(service: str, name: str) -> Callable[..., Any]:
    async def answer(
        self: Paceline, request: Any, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[Any]:
        begun = False
        stream = self.server.stream(f"/{service}/{name}", request, _call(grpc_context))
        try:
            async with contextlib.aclosing(stream):
                async for message in stream:
                    begun = True
                    yield message
        except Ended as end:
            _set_status(grpc_context, end)
            if end.code in _RETRIED and not begun:
                raise  # the caller's gRPC tries again, which any message would forbid
            # Ray's proxy gets trailers beside messages alone. One without a token changes nothing.
            yield empty_pb2.Empty()

    return answer


class Paceline:
    """A replica. Its methods have the names of the calls that Serve's proxy hands it."""

    async def __init__(self, flags: list[str]) -> None:  # type: ignore[misc]  # Serve awaits it
        config = _configured(flags)
        self.server = LocalServer()
        listener = functools.partial(LocalListener, self.server)
        self._app = App(config, load_mock if config.mock else load_torch, listener)
        await self._app.bind()
        await self._app.load()

    async def check_health(self) -> None:
        """Raises when the engine died, so that Serve starts another replica."""
        if self._app.failed.is_set():
            raise RuntimeError("the engine died")

    async def __del__(self) -> None:
        await self._app.close()

    Generate = _unary(SERVICE, "Generate")
    GenerateStream = _streaming(SERVICE, "GenerateStream")
    GenerateBatch = _unary(SERVICE, "GenerateBatch")
    Tokenize = _unary(SERVICE, "Tokenize")
    Detokenize = _unary(SERVICE, "Detokenize")
    GetModelInfo = _unary(SERVICE, "GetModelInfo")
    GetServerInfo = _unary(SERVICE, "GetServerInfo")
    GetLoad = _unary(SERVICE, "GetLoad")
    Abort = _unary(SERVICE, "Abort")
    Check = _unary(health.SERVICE_NAME, "Check")

    async def Watch(self, request: Any, grpc_context: RayServegRPCContext) -> AsyncIterator[Any]:
        """Not offered: to Serve a watch is a request that never ends, so it would scale up for watchers.

        gRPC's own health checking takes a server without it for healthy.
        """
        grpc_context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        grpc_context.set_details("health cannot be watched on Ray Serve: ask Check")
        raise NotImplementedError
        yield


def _configured(flags: list[str]) -> ServeConfig:
    # No metrics port unless asked for: two replicas of a machine cannot have the same one. The playground asks by a
    # socket of the port that is Serve's.
    config = read(["--port", "0", "--metrics-port", "none", *flags, "--no-playground"])
    if config.http_port is not None:
        raise SetupError("--http-port has no effect on Ray Serve")
    if config.replicas > 1:
        raise SetupError("--replicas has no effect on Ray Serve: set its num_replicas")
    for name in _FOREIGN:
        if getattr(config, name) not in (None, 0):
            flag = name.replace("_", "-")
            raise SetupError(f"--{flag} has no effect on Ray Serve, whose proxy holds the port")
    return config


def _call(context: RayServegRPCContext) -> LocalCall:
    return LocalCall(tuple(context.invocation_metadata()), context.peer())


def _set_status(context: RayServegRPCContext, end: Ended) -> None:
    context.set_code(end.code)
    context.set_details(end.details)
    context.set_trailing_metadata(list(end.trailers))

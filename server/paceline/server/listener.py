"""The gRPC side of a process: the port, our service behind its guard, health and reflection."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from paceline.v1 import generation_pb2_grpc as rpc

from . import listen
from .config import ServeConfig
from .frontend import Frontend
from .rpc import REQUESTS, SERVICE, GenerationService, Observer
from .rpc_guard import Guard
from .server_info import ServerInfo

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_MAX_REQUEST_BYTES = 4 * 1024 * 1024
_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    # Clients may ping a quiet connection this often; gRPC's own bound of 300 s cuts long silent calls.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client whose machine is gone is noticed, and its pages freed.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients look the name up again now and then, so that new replicas get their share. Calls end in peace.
    ("grpc.max_connection_age_ms", 30 * 60_000),
]
_LAST_WORDS_S = 5.0  # for calls to send what they have after the engine stopped


class Listener:
    """Answers NOT_SERVING and UNAVAILABLE until `open`."""

    def __init__(self, config: ServeConfig, observer: Observer) -> None:
        self._config = config
        self._guard = Guard(SERVICE, REQUESTS)
        self._service = GenerationService(observer)
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def bind(self, port: int, *, shared: bool = False) -> int:
        """Listens; returns the port. SetupError if it cannot be had.

        Args:
            shared: whether other processes of this server listen there too. A second server on the port of
                one that does not share must fail, not take every other connection.
        """
        config = self._config
        options = [*_OPTIONS, ("grpc.so_reuseport", int(shared))]
        server = grpc.aio.server(interceptors=[self._guard], options=options)
        self._server = server
        rpc.add_GenerationServiceServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        await self.not_serving()
        try:
            bound: int = server.add_insecure_port(listen.target(config.host, port))
        except RuntimeError as exc:
            raise listen.cannot_listen(config.host, port, "--port", OSError(exc)) from exc
        await server.start()
        return bound

    async def open(self, frontend: Frontend, info: ServerInfo) -> None:
        """Serves from now on."""
        self.answer(frontend, info)
        await self.serving()

    def answer(self, frontend: Frontend, info: ServerInfo) -> None:
        """Calls are answered from now on."""
        self._service.open(frontend, info)

    async def not_serving(self) -> None:
        """Health says so; calls are answered all the same."""
        await self._set_health(NOT_SERVING)

    async def serving(self) -> None:
        """Health says so."""
        await self._set_health(SERVING)

    async def leave(self) -> None:
        """Health says NOT_SERVING for good. Idempotent."""
        await self._health.enter_graceful_shutdown()

    async def answered(self, timeout_s: float) -> bool:
        """Waits until no call of the service is being answered; whether that came true in time."""
        return await self._guard.wait_idle(timeout_s)

    async def close(self) -> None:
        """Lets calls whose outputs have ended say so, and ends the others."""
        if self._server is not None:
            # Health watchers never end by themselves, so only our own calls are waited for.
            await self._guard.wait_idle(_LAST_WORDS_S)
            await self._server.stop(grace=0.2)

    async def _set_health(self, status: Any) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)

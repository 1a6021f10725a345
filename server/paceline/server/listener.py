"""The ports of a process: our service behind its guard, health and reflection; OpenAI's API where it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from paceline.v1 import generation_pb2_grpc as rpc

from . import listen, tracing
from .bearer import Tokens
from .calls import Calls
from .config import ServeConfig
from .credentials import server_credentials
from .frontend import Frontend
from .rpc import REQUESTS, SERVICE, GenerationService, Observer
from .rpc_access import Access
from .rpc_guard import Guard
from .server_info import ServerInfo
from .threads import in_daemon_thread
from .tls import files_of

if TYPE_CHECKING:  # of an extra that may not be installed
    from .openai_api.ports import HttpPort

logger = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_MAX_REQUEST_BYTES = 4 * 1024 * 1024
_MAX_METADATA_BYTES = 8 * 1024
_MAX_STREAMS = 4096  # of one connection; more wait at the client
_OPTIONS: dict[str, int] = {
    "grpc.max_receive_message_length": _MAX_REQUEST_BYTES,
    "grpc.max_metadata_size": _MAX_METADATA_BYTES,
    # Between gRPC's two bounds it refuses at random.
    "grpc.absolute_max_metadata_size": _MAX_METADATA_BYTES,
    "grpc.max_concurrent_streams": _MAX_STREAMS,
    # Who connects and says nothing is let go.
    "grpc.server_handshake_timeout_ms": 20_000,
    # Clients may ping a quiet connection this often; gRPC's own bound of 300 s cuts long silent calls.
    "grpc.http2.min_ping_interval_without_data_ms": 10_000,
    "grpc.http2.max_ping_strikes": 2,
    "grpc.keepalive_permit_without_calls": 1,
    # A client whose machine is gone is noticed, and its pages freed.
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
}
_LAST_SPANS_S = 3.0  # for a collector to take them
LAST_WORDS_S = 5.0  # for calls to send what they have after the engine stopped


class Listener:
    """Answers NOT_SERVING and UNAVAILABLE until `open`."""

    def __init__(self, config: ServeConfig, observer: Observer) -> None:
        self._config = config
        self._observer = observer
        self._calls = Calls()
        self._tracing = tracing.make(config)
        self._service = GenerationService(observer, self._tracing)
        self._health = health.aio.HealthServicer()
        self._healthy = False
        self._left = False
        self._server: grpc.aio.Server | None = None
        self._http: HttpPort | None = None

    async def bind(
        self,
        port: int,
        http_port: int | None = None,
        *,
        shared: bool = False,
        private: Path | None = None,
    ) -> tuple[int, int | None]:
        """Listens; returns the ports. SetupError if one cannot be had.

        Args:
            shared: whether other processes of this server listen there too. A second server on the port of
                one that does not share must fail, not take every other connection.
            private: a socket's name, in a folder of ours alone, to listen on too, without TLS: for the playground.
        """
        config = self._config
        options = [*_options(config).items(), ("grpc.so_reuseport", int(shared))]
        tokens = Tokens.of(config)
        server = grpc.aio.server(interceptors=self._interceptors(tokens), options=options)
        self._server = server
        self._offer(server)
        if config.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        await self.not_serving()
        try:
            bound = self._add_port(server, listen.target(config.host, port))
        except RuntimeError as exc:
            raise listen.cannot_listen(config.host, port, "--port", OSError(exc)) from exc
        if private is not None:
            try:
                server.add_insecure_port(f"unix:{private}")
            except RuntimeError as exc:  # its name is too long, for one
                logger.warning("the playground will not answer: %s", exc)
        await server.start()
        if http_port is None:
            return bound, None
        return bound, await self._bind_http(http_port, tokens, shared=shared)

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
        self._left, self._healthy = True, False
        await self._health.enter_graceful_shutdown()

    async def answered(self, timeout_s: float) -> bool:
        """Waits until no call of the service is being answered; whether that came true in time."""
        return await self._calls.wait_idle(timeout_s)

    async def close(self) -> None:
        """Lets calls whose outputs have ended say so, and ends the others."""
        if self._server is not None:
            # Health watchers never end by themselves, so only our own calls are waited for.
            await self._calls.wait_idle(LAST_WORDS_S)
            await self._server.stop(grace=0.2)
        if self._http is not None:
            await self._http.close()
        if self._tracing is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(in_daemon_thread(self._tracing.close), _LAST_SPANS_S)
            self._tracing = None

    async def _bind_http(self, port: int, tokens: Tokens | None, *, shared: bool) -> int:
        from .openai_api.endpoints import Endpoints
        from .openai_api.ports import HttpPort

        # Where there is TLS, a page of another site has no certificate for its name.
        endpoints = Endpoints(
            self._service,
            self._calls,
            tokens,
            lambda: self._healthy,
            self._observer.answered,
            own_names_only=listen.is_loopback(self._config.host) and files_of(self._config) is None,
        )
        self._http = HttpPort(self._config, endpoints)
        return await self._http.bind(port, shared=shared)

    def _offer(self, server: Any) -> None:
        rpc.add_GenerationServiceServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    def _interceptors(self, tokens: Tokens | None) -> list[grpc.aio.ServerInterceptor]:
        """Who shows no good token gets no further than the first."""
        guard = Guard(SERVICE, REQUESTS, self._calls)
        if tokens is None:
            return [guard]
        return [Access(tokens, SERVICE, self._observer.answered), guard]

    def _add_port(self, server: grpc.aio.Server, address: str) -> int:
        files = files_of(self._config)
        if files is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, server_credentials(files))

    async def _set_health(self, status: Any) -> None:
        self._healthy = status == SERVING and not self._left
        for service in ("", SERVICE):
            await self._health.set(service, status)


def _options(config: ServeConfig) -> dict[str, int]:
    options = dict(_OPTIONS)
    if config.max_connection_age_s is not None:
        # Clients look the name up again, so that new replicas get their share.
        options["grpc.max_connection_age_ms"] = round(config.max_connection_age_s * 1e3)
    if config.max_connection_age_grace_s is not None:
        options["grpc.max_connection_age_grace_ms"] = round(config.max_connection_age_grace_s * 1e3)
    return options

"""The HTTP port: a socket, TLS by the same files as gRPC's, and uvicorn on the process's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from .. import listen
from ..config import ServeConfig
from ..errors import SetupError
from ..reloaded import Reloaded
from ..tls import TlsFiles, files_of, read
from .silence import PatientProtocol

_FLAG = "--http-port"
_MAX_CONNECTIONS = 4096  # as many as gRPC has streams of a connection; above it requests are 503
_UNTAKEN_MS = 60_000
_LAST_WORDS_S = 1  # for answers that end while the port closes


class HttpPort:
    """Answers with `application` from `bind` to `close`."""

    def __init__(self, config: ServeConfig, application: ASGIApp) -> None:
        self._config = config
        self._server = _Server(
            uvicorn.Config(
                application,
                http=PatientProtocol,  # h11, which has a bound for headers
                limit_concurrency=_MAX_CONNECTIONS,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                ssl_context_factory=_context_factory(config),
                timeout_graceful_shutdown=_LAST_WORDS_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def bind(self, port: int, *, shared: bool) -> int:
        """Listens; returns the port. SetupError if it cannot be had. `shared`: other processes listen there too."""
        host = self._config.host
        bound = (listen.reserve if shared else listen.take)(host, port, _FLAG)
        _notice_the_gone(bound)
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait((self._serving, up), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._serving.done():
            bound.close()
            self._serving.result()
        number: int = bound.getsockname()[1]
        return number

    async def close(self) -> None:
        """Lets answers that are ending end, and cuts the others."""
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving


class _Server(uvicorn.Server):
    """Leaves signals to the process it is a part of."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


def _notice_the_gone(listening: socket.socket) -> None:
    """Its connections end when their peers' machines do, or take nothing of what is sent for long."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # not everywhere
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNTAKEN_MS)


def _context_factory(config: ServeConfig) -> Any:
    files = files_of(config)
    if files is None:
        return None
    latest = _Latest(ssl.PROTOCOL_TLS_SERVER)
    latest.contexts = Reloaded(files.paths, lambda: _context(files))
    return lambda *_: latest


def _context(files: TlsFiles) -> ssl.SSLContext:
    """SetupError if the files are no good now."""
    read(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as exc:  # they changed since they were read
        raise SetupError(f"--tls-cert {files.certificate}: {exc}") from exc
    return context


class _Latest(ssl.SSLContext):
    """What asyncio makes connections with: each is greeted with the files as they are, or last were good."""

    contexts: Reloaded[ssl.SSLContext]

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.contexts.get().wrap_bio(*args, **kwargs)

"""`paceline serve`: one server from the first port to the last running request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator
from typing import Protocol

from . import listen, security, tracing
from .collector import settle
from .config import ServeConfig
from .loader import Loader
from .processes.count import count_frontends
from .server_info import ServerInfo, version
from .threads import end_process
from .torch_loader import load_torch

logger = logging.getLogger(__name__)


class Server(Protocol):
    """A server of one process or of several. Phases in this order; `close` always."""

    port: int
    http_port: int | None
    info: ServerInfo | None
    failed: asyncio.Event

    @property
    def metrics_port(self) -> int | None: ...
    async def bind(self) -> None: ...
    async def load(self) -> None: ...
    async def drain(self, force: asyncio.Event) -> bool: ...
    async def close(self) -> None: ...


def run(config: ServeConfig, loader: Loader = load_torch) -> int:
    """`serve` to its end, for a process that does nothing else. The same result and errors."""
    return end_process(asyncio.run(serve(config, loader)))


async def serve(config: ServeConfig, loader: Loader = load_torch) -> int:
    """Serves until SIGTERM or SIGINT, then drains; a second signal cuts that short.

    Args:
        loader: with front ends of their own, a function that other processes can import by its name.

    Returns:
        The exit code: 0, or 1 if running requests had to be aborted or the engine died.

    Raises:
        SetupError: before serving, where the operator has to change something.
    """
    tracing.check(config)
    server = make_server(config, loader)
    with _signals() as (first, second):
        try:
            await server.bind()
            logger.info("loading the model")
            if not await _done_before(first, server.load()):
                return 0
            settle()
            sys.stdout.write(banner(server, config))
            sys.stdout.flush()
            await _either(first, server.failed)
            if server.failed.is_set():
                return 1
            logger.info("draining for at most %g s", config.drain_timeout_s)
            return 0 if await server.drain(second) else 1
        finally:
            await server.close()


def make_server(config: ServeConfig, loader: Loader) -> Server:
    """In this process alone, or with an engine and front ends in processes of their own."""
    frontends = count_frontends(config)
    if frontends:
        from .processes.supervisor import Supervisor

        return Supervisor(config, loader, frontends)
    from .app import App

    return App(config, loader)


def banner(app: Server, config: ServeConfig) -> str:
    """Lines that say what is served, where and how."""
    info = app.info
    assert info is not None
    model = info.model
    address = listen.target(config.host, app.port)
    protection = security.described(config)
    protected = f" with {protection}" if protection else ""
    status = (
        ""
        if app.metrics_port is None
        else (f"; status http://{listen.target(config.metrics_host, app.metrics_port)}/")
    )
    scheme = "http" if config.tls_cert is None else "https"
    door = (
        ""
        if app.http_port is None
        else f"OpenAI's API at {scheme}://{listen.target(config.host, app.http_port)}/v1\n"
    )
    return (
        f"Paceline {version()} serves {model.name} on {address} in {config.mode} mode{protected}{status}\n"
        f"{model.architecture}, {model.num_parameters / 1e6:.0f} M parameters, {model.dtype} on "
        f"{model.device}, {info.num_threads} threads, {info.num_pages} pages of "
        f"{config.page_size} tokens\n"
        f"{door}"
    )


@contextlib.contextmanager
def _signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Events for the first and the second signal to end; a third one kills."""
    first, second = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if first.is_set():
            second.set()
            release()
        first.set()

    def release() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield first, second
    finally:
        release()


async def _done_before(event: asyncio.Event, work: Coroutine[object, object, None]) -> bool:
    """Whether `work` was done before the event; if not, it is given up."""
    task, waiter = asyncio.create_task(work), asyncio.create_task(event.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return False
    await task
    return True


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waiters = [asyncio.create_task(event.wait()) for event in (one, other)]
    await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()

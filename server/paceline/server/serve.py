"""`paceline serve`: one server from the first port to the last running request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator

from . import listen
from .app import LOADING_THREAD, App, Loader, load_torch
from .config import ServeConfig
from .server_info import version

logger = logging.getLogger(__name__)


def run(config: ServeConfig, loader: Loader = load_torch) -> int:
    """`serve` to its end, for a process that does nothing else. The same result and errors."""
    code = asyncio.run(serve(config, loader))
    if any(thread.name == LOADING_THREAD for thread in threading.enumerate()):
        # Loading was given up but cannot be stopped, and torch aborts if the interpreter is taken from under it.
        logging.shutdown()
        os._exit(code)
    return code


async def serve(config: ServeConfig, loader: Loader = load_torch) -> int:
    """Serves until SIGTERM or SIGINT, then drains; a second signal cuts that short.

    Returns:
        The exit code: 0, or 1 if running requests had to be aborted.

    Raises:
        SetupError: before serving, where the operator has to change something.
    """
    app = App(config, loader)
    with _signals() as (first, second):
        try:
            await app.bind()
            logger.info("loading the model")
            if not await _done_before(first, app.load()):
                return 0
            sys.stdout.write(banner(app, config))
            sys.stdout.flush()
            await first.wait()
            logger.info("draining for at most %g s", config.drain_timeout_s)
            return 0 if await app.drain(second) else 1
        finally:
            await app.close()


def banner(app: App, config: ServeConfig) -> str:
    """Two lines that say what is served, where and how."""
    info = app.info
    assert info is not None
    model = info.model
    address = listen.target(config.host, app.port)
    status = (
        ""
        if app.metrics_port is None
        else (f"; status http://{listen.target(config.host, app.metrics_port)}/")
    )
    return (
        f"Paceline {version()} serves {model.name} on {address} in {config.mode} mode{status}\n"
        f"{model.architecture}, {model.num_parameters / 1e6:.0f} M parameters, {model.dtype} on "
        f"{model.device}, {info.num_threads} threads, {info.num_pages} pages of "
        f"{config.page_size} tokens\n"
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

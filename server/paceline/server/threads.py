"""Work on a thread that keeps no process from ending."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_LOADING = "paceline-load"


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """The result of `work`. Unlike asyncio's own threads this one is not waited for."""
    future: Future[T] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work())
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, name=_LOADING, daemon=True).start()
    return await asyncio.wrap_future(future)


def end_process(code: int) -> int:
    """The exit code for a process that has nothing left to do; ends it here if loading was given up.

    Loading cannot be stopped, and torch aborts if the interpreter is taken from under it.
    """
    if any(thread.name == _LOADING for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(code)
    return code

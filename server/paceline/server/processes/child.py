"""What the supervisor's children have in common: they follow orders alone, and never outlive it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from .. import logs
from ..threads import end_process
from .orders import Pipe

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def run(main: Callable[[Pipe[Any]], Awaitable[int]], kinds: Any) -> int:
    """Runs a child to its end; its arguments are the pipe's descriptor and the supervisor's process id."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    leave_signals()

    async def with_pipe() -> int:
        pipe: Pipe[Any] = await Pipe.open(socket.socket(fileno=descriptor), kinds)
        try:
            return await main(pipe)
        finally:
            await pipe.close()

    return end_process(asyncio.run(with_pipe()))


def configure_logs(config: dict[str, Any]) -> None:
    """The log is the supervisor's standard error; `config` is the server's."""
    logs.configure(config["log_level"], config["log_format"])


def abandoned() -> NoReturn:
    """The supervisor is gone without a word: so is this process."""
    logger.critical("the supervisor is gone")
    logging.shutdown()
    os._exit(1)


def leave_signals() -> None:
    """A terminal, a service manager or torchrun may signal all at once; the order of leaving is the first process's."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def die_with(parent: int) -> None:
    """Asks the kernel to end this process with the thread that started it, for one that hangs reads no pipe."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)

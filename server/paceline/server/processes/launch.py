"""Starts a child process and keeps the supervisor's end of its pipe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from ..interpreter import command, environment
from .orders import Done, Pipe, SetupFailed
from .questions import Questions

logger = logging.getLogger(__name__)

ANSWER_S = 3.0  # for a child to answer what takes it no time: longer, and it hangs

In = TypeVar("In")


class Child(Generic[In]):
    """A process of ours that was started."""

    def __init__(self, process: asyncio.subprocess.Process, pipe: Pipe[In]) -> None:
        self.process = process
        self.line: str | None = None  # for the operator: why it could not start
        self._pipe = pipe
        self._questions = Questions()
        self.ended = False

    @classmethod
    async def start(cls, module: str, first: msgspec.Struct, kinds: Any) -> Child[In]:
        """Runs `module`, which sends messages of the types `kinds`, and gives it its first message.

        OSError if the machine has no process or descriptor left for it.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *command(module, str(theirs.fileno()), str(os.getpid())),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env=environment(),
                process_group=0,  # a terminal's interrupt is for the supervisor alone
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        child = cls(process, await Pipe.open(ours, kinds))
        child.send(first)
        return child

    def send(self, order: msgspec.Struct) -> None:
        self._pipe.send(order)

    async def ask(
        self, order: Callable[[int], msgspec.Struct], timeout_s: float = ANSWER_S
    ) -> bool:
        """Sends an order and waits for its answer; False if the child ends before, or is late."""
        if self.ended:
            return False
        with self._questions.open() as (number, answer):
            message = order(number)
            self.send(message)
            try:
                done: bool = await asyncio.wait_for(answer, timeout_s)
            except TimeoutError:
                kind = type(message).__name__
                logger.error("process %d does not answer %s", self.process.pid, kind)
                return False
            return done

    async def follow(
        self, take: Callable[[In], None], lost: Callable[[], None] = lambda: None
    ) -> int:
        """Reads until the child ends; its exit code.

        Args:
            take: gets its messages, but answers and failures.
            lost: called when no more will come. The exit code may take a while: a device has to be let go before.
        """
        while (message := await self._pipe.receive()) is not None:
            match message:
                case Done(call, ok):
                    self._questions.answer(call, ok)
                case SetupFailed(line):
                    self.line = line
                case _:
                    take(message)
        self.ended = True
        self._questions.answer_all(False)
        lost()
        code = await self.process.wait()
        await self._pipe.close()
        return code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

"""The questions of a front end to an engine that are not answered yet."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any


class Calls:
    """Numbers them, so that each answer finds who waits for it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[Any]] = {}

    async def ask(self, send: Callable[[int], None]) -> Any:
        """The answer to what `send` sends with the number that it gets."""
        call, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._open[call] = answer
        send(call)
        try:
            return await answer
        finally:
            self._open.pop(call, None)

    def answer(self, call: int, value: Any) -> None:
        """Whoever asked may have left."""
        answer = self._open.get(call)
        if answer is not None and not answer.done():
            answer.set_result(value)

    def fail(self, error: Exception) -> None:
        """Nothing will be answered any more: everybody gets the error."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(error)
        self._open.clear()

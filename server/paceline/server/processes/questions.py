"""The questions to another process that are not answered yet."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Questions:
    """Numbers them, so that each answer finds who waits for it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[Any]] = {}

    @contextmanager
    def open(self) -> Iterator[tuple[int, asyncio.Future[Any]]]:
        """A number to ask with, and the answer to come."""
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._open[number] = answer
        try:
            yield number, answer
        finally:
            del self._open[number]

    def answer(self, number: int, value: Any) -> None:
        """Whoever asked may have left."""
        answer = self._open.get(number)
        if answer is not None and not answer.done():
            answer.set_result(value)

    def answer_all(self, value: Any) -> None:
        """Nothing else will be answered any more."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_result(value)

    def fail(self, error: Exception) -> None:
        """Nothing will be answered any more: everybody gets the error."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(error)

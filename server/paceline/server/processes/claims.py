"""The ids of a front end's requests, unique in a server with several engines: each of those knows its own alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from ..errors import InvalidRequest, Violation
from .orders import Claim, FromFrontend, Release


class Claims:
    """Asks the supervisor, which outlives all.

    Args:
        tell: sends to it.
    """

    def __init__(self, tell: Callable[[FromFrontend], None]) -> None:
        self._tell = tell
        self._calls = itertools.count()
        self._open: dict[int, tuple[str, asyncio.Future[bool]]] = {}

    async def take(self, request_id: str) -> None:
        """Returns when nobody else can take the id before its `release`. InvalidRequest if somebody has it."""
        call, answer = next(self._calls), asyncio.get_running_loop().create_future()
        self._open[call] = request_id, answer
        self._tell(Claim(call, request_id))
        try:
            ok = await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.result():
                self.release(request_id)  # the answer came in the moment in which the caller left
            raise
        if not ok:
            in_flight = Violation("generation.request_id", "a request with this id is in flight")
            raise InvalidRequest(in_flight)

    def answered(self, call: int, ok: bool) -> None:
        """The supervisor's answer to a `take`, whose caller may have left."""
        request_id, answer = self._open.pop(call)
        if not answer.done():
            answer.set_result(ok)
        elif ok:
            self.release(request_id)

    def release(self, request_id: str) -> None:
        self._tell(Release(request_id))

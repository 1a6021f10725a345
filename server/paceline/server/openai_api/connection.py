"""One HTTP request as the service needs it: caller, deadline, body, and whether its client is still there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive, Send

from ..errors import InvalidRequest, PacelineError, Violation
from ..logs import RequestRecord
from .faults import HttpFault

MAX_BODY_BYTES = 4 * 1024 * 1024  # gRPC's bound of a message
_BODY_S = 20.0  # for a body to come
_SEND_S = 60.0  # for a client to make room for more
_MOST_TIMEOUT_S = 1e6
_PATIENCE = "x-request-timeout"

_SHOWN = 100  # characters of a path in the log

Answered = Callable[[str, str], None]
T = TypeVar("T")


class ClientGone(Exception):
    """Nobody is there to be told."""


class HttpContext:
    """The part of gRPC's context that the service looks at.

    The header `x-request-timeout`, in seconds, is HTTP's deadline: it ends what is late with an error.
    """

    def __init__(self, request: Request) -> None:
        self._peer = _peer(request)
        self._metadata = tuple(request.headers.items())
        text = request.headers.get(_PATIENCE)
        self._until = None if text is None else time.monotonic() + _seconds(text)

    def time_remaining(self) -> float | None:
        return None if self._until is None else self._until - time.monotonic()

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


def _peer(request: Request) -> str:
    client = request.client
    return f"http:{client.host}:{client.port}" if client else "http"


@contextlib.contextmanager
def refusals(request: Request, answered: Answered) -> Iterator[None]:
    """Surrounds what comes before the service: an error there is logged as the request's end, and raised."""
    try:
        yield
    except PacelineError as exc:
        path = request.url.path[:_SHOWN]
        with contextlib.suppress(PacelineError), RequestRecord(path, _peer(request), answered):
            raise exc
        raise


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_TIMEOUT_S:  # false for NaN too
        raise InvalidRequest(Violation(_PATIENCE, "must be a number of seconds above 0"))
    return seconds


async def read_json(request: Request) -> bytes:
    """The body. HttpFault where it is no JSON, too large or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Browsers send other types for any page, without asking the server first.
        raise HttpFault(415, "the body must be application/json; say so in content-type")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise HttpFault(413, f"a body has at most {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise HttpFault(408, f"the body did not come within {_BODY_S:g} s") from None
    return bytes(body)


def patient(send: Send) -> Send:
    """The same, but who reads nothing for long is taken for gone: ClientGone."""

    async def in_time(message: Message) -> None:
        try:
            async with asyncio.timeout(_SEND_S):
                await send(message)
        except TimeoutError:
            raise ClientGone from None

    return in_time


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. It is cancelled, and ClientGone raised, when the client goes away before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

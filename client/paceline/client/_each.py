"""A batch as calls of their own, so many at a time, with word of each answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

import grpc

from paceline.client._status import from_rpc_error
from paceline.client.errors import Cancelled, PacelineError

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
Progress = Callable[[int, int], object]
"""Called with how many prompts are done, and how many there are."""

IN_FLIGHT = 32


def each(
    start: Callable[[RequestT], Any],
    requests: Sequence[RequestT],
    progress: Progress,
    in_flight: int,
) -> list[Any | PacelineError]:
    """Responses, or errors, in the order of `requests`. `start` makes a call that is a gRPC future."""
    outcomes: list[Any] = [None] * len(requests)
    waiting = iter(enumerate(requests))
    running: dict[int, Any] = {}
    ended: SimpleQueue[int] = SimpleQueue()

    def begin(most: int) -> None:
        for index, request in itertools.islice(waiting, most):
            running[index] = call = start(request)
            call.add_done_callback(lambda _, index=index: ended.put(index))

    try:
        begin(_checked(in_flight))
        for done in range(1, len(requests) + 1):
            index = ended.get()
            outcomes[index] = _outcome(running.pop(index))
            begin(1)
            progress(done, len(requests))
    finally:
        for call in running.values():
            call.cancel()
    return outcomes


async def each_async(
    call: Callable[[RequestT], Awaitable[ResponseT]],
    requests: Sequence[RequestT],
    progress: Progress,
    in_flight: int,
) -> list[ResponseT | PacelineError]:
    """The same on an event loop; `call` raises a PacelineError where it fails."""
    room = asyncio.Semaphore(_checked(in_flight))

    async def one(request: RequestT) -> ResponseT | PacelineError:
        async with room:
            try:
                return await call(request)
            except PacelineError as error:
                return error

    tasks = [asyncio.create_task(one(request)) for request in requests]
    try:
        for done, finished in enumerate(asyncio.as_completed(tasks), 1):
            await finished
            progress(done, len(tasks))
    finally:
        for task in tasks:
            task.cancel()
    return [task.result() for task in tasks]


def _checked(in_flight: int) -> int:
    if in_flight < 1:
        raise ValueError(f"in_flight is {in_flight}; it takes at least 1")
    return in_flight


def _outcome(call: Any) -> Any:
    try:
        return call.result()
    except grpc.RpcError as error:
        return from_rpc_error(error)
    except grpc.FutureCancelledError:  # the client was closed meanwhile
        return Cancelled("the client is closed")

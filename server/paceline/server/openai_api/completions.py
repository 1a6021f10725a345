"""The two paths that generate: JSON in, the service's own methods, JSON or events out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.v1 import generation_pb2 as pb

from .. import caller
from ..calls import Calls
from ..rpc import GenerationService
from ..rpc_errors import public_error
from .answers import DONE, Events, whole_answer
from .asked import Asked, ask_chat, ask_completion
from .connection import (
    Answered,
    ClientGone,
    HttpContext,
    patient,
    read_json,
    refusals,
    while_connected,
)
from .faults import UnknownModel, error_body, failure
from .fields import ChatFields, CompletionFields, read_fields

_ID = "x-request-id"
_MUCH_BYTES = 64 * 1024  # of a body that takes a while to look at
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Completions:
    """The ASGI application of one path."""

    def __init__(
        self, service: GenerationService, calls: Calls, answered: Answered, *, chat: bool
    ) -> None:
        self._service = service
        self._calls = calls
        self._answered = answered
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, send = Request(scope, receive), patient(send)
        with self._calls, contextlib.suppress(ClientGone, ClientDisconnect):
            end = await self._answer(request, send)
            await end(scope, receive, send)

    async def _answer(self, request: Request, send: Send) -> ASGIApp:
        """What is left to be sent: all of an answer, or a stream's end."""
        names: Mapping[str, str] = {}
        try:
            async with contextlib.AsyncExitStack() as stack:
                with refusals(request, self._answered):
                    admit = stack.enter_context(_allowed())
                    context = HttpContext(request)
                    asked = await self._read(request, context)
                    names = asked.names
                    admit(asked.completions)
                work = (
                    self._stream(asked, context, send)
                    if asked.stream
                    else self._whole(asked, context)
                )
                return await while_connected(request.receive, work)
        except (ClientGone, ClientDisconnect):
            raise
        except Exception as exc:
            return failure(public_error(exc), names)

    async def _read(self, request: Request, context: HttpContext) -> Asked:
        """What is asked for. Raises before anything of it is done: UnknownModel, Unavailable while that loads."""
        body = await read_json(request)
        request_id = request.headers.get(_ID, "")
        ask = _ask_chat if self._chat else _ask_completion
        if len(body) > _MUCH_BYTES:  # others' streams go on
            asked = await asyncio.to_thread(ask, body, request_id)
        else:
            asked = ask(body, request_id)
        info = await self._service.GetModelInfo(pb.GetModelInfoRequest(), context)
        if asked.model is not None and asked.model != info.name:
            raise UnknownModel(asked.model, info.name)
        return asked

    async def _whole(self, asked: Asked, context: HttpContext) -> ASGIApp:
        results = await self._results(asked, context)
        firsts = [await self._first(result, context) for result in results]
        body = whole_answer(asked, results, firsts)
        return Response(body, 200, {_ID: results[0].request_id}, "application/json")

    async def _first(self, result: pb.GenerationResult, context: HttpContext) -> str:
        """The text of the prompt's first token, where the prompt has log-probabilities."""
        if not result.prompt_logprobs:
            return ""
        ids = result.completions[0].token_ids[:1]
        question = pb.DetokenizeRequest(token_ids=ids, skip_special_tokens=False)
        return (await self._service.Detokenize(question, context)).text

    async def _results(self, asked: Asked, context: HttpContext) -> list[pb.GenerationResult]:
        """One for each generation, or the error of the first that fails; the others are then cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._service.Generate(pb.GenerateRequest(generation=each), context)
                    )
                    for each in asked.generations
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result().result for task in tasks]

    async def _stream(self, asked: Asked, context: HttpContext, send: Send) -> ASGIApp:
        """Sends the events. What goes wrong after the first is one of them."""
        request = pb.GenerateStreamRequest(generation=asked.generations[0])
        messages: Any = self._service.GenerateStream(request, context)
        async with contextlib.aclosing(messages):
            header = (await anext(messages)).header
            events = Events(asked, header)
            headers = [*_EVENTS, (_ID.encode(), header.request_id.encode("latin-1", "replace"))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                for event in events.opening():
                    await send(_part(event))
                async for message in messages:
                    for event in events.piece(message):
                        await send(_part(event))
            except ClientGone:
                raise
            except Exception as exc:
                error = error_body(public_error(exc), asked.names)
                await send(_part(b"data: %b\n\n" % error))
        return _end


async def _end(scope: Scope, receive: Receive, send: Send) -> None:
    await send(_part(DONE, more=False))


def _part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def _ask_chat(body: bytes, request_id: str) -> Asked:
    return ask_chat(read_fields(ChatFields, body), request_id)


def _ask_completion(body: bytes, request_id: str) -> Asked:
    return ask_completion(read_fields(CompletionFields, body), request_id)


@contextlib.contextmanager
def _allowed() -> Iterator[Callable[[int], None]]:
    """The caller's limits, while this runs: LimitReached where they do not allow one completion more.

    Gives what to call with the number of completions, once it is known: InvalidRequest or LimitReached, too.
    """
    who = caller.current.get()
    if who is None:
        yield lambda amount: None
        return
    running = 0

    def enter(amount: int) -> None:
        nonlocal running
        who.quota.undo(running)
        running = 0
        who.enter(amount, time.monotonic(), "generation.sampling.n")
        running = amount

    enter(1)  # before a body is read, whose faults count as a request
    try:
        yield enter
    finally:
        who.quota.leave(running)

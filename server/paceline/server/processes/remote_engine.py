"""The engine of another process, as a front end sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from ..errors import Unavailable
from ..request import FinishReason, Load, Output, Request
from ..stream import Hub, OutputStream
from . import sockets
from .messages import (
    CONTROL,
    Abort,
    Aborted,
    Accepted,
    AskLoad,
    Cancel,
    Hello,
    LoadIs,
    Outputs,
    Refused,
    Submit,
    ToEngine,
    decode_outputs,
    decode_to_frontend,
    encode,
)


@dataclass(slots=True)
class _Running:
    """The slot of a request's first completion, and how many completions still run."""

    first: int
    unfinished: int


class RemoteEngine:
    """An `EnginePort` over two sockets: one for questions and answers, one for outputs.

    Args:
        hub: the streams of this front end.
        folder: where the sockets are.
        serial: the number of this front end, never used before.
    """

    def __init__(self, hub: Hub, folder: Path, serial: int) -> None:
        self.ended = asyncio.Event()  # nothing more comes from the engine
        self._hub = hub
        self._error: Unavailable | None = None
        self._next = 0
        self._slots: dict[int, tuple[str, int]] = {}  # request id and index of what runs
        self._running: dict[str, _Running] = {}
        self._submitted: dict[int, tuple[OutputStream, asyncio.Future[None]]] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        endpoint = f"ipc://{folder / f'frontend-{serial}.sock'}"
        pull = sockets.make(zmq.PULL)
        pull.bind(endpoint)
        self._outputs = sockets.Inlet(pull, self._take_outputs)
        control = sockets.make(zmq.DEALER)
        control.setsockopt(zmq.IDENTITY, f"frontend-{serial}".encode())
        control.connect(f"ipc://{folder / CONTROL}")
        self._control = sockets.Inlet(control, self._take_answers)
        self._send(Hello(endpoint))

    async def start(self, request: Request) -> OutputStream:
        self._check()
        stream = self._hub.open(request.id, request.n, self.cancel)
        first, self._next = self._next, self._next + request.n
        for index in range(request.n):
            self._slots[first + index] = (request.id, index)
        self._running[request.id] = _Running(first, request.n)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submitted[first] = (stream, answer)
        self._send(Submit(first, request))
        try:
            await answer
        except asyncio.CancelledError:
            stream.close()  # the cancel is behind the request, whatever becomes of that
            raise
        return stream

    def cancel(
        self,
        request_id: str,
        reason: FinishReason = FinishReason.CANCELLED,
        index: int | None = None,
    ) -> None:
        running = self._running.get(request_id)
        if running is not None and self._error is None:
            self._send(Cancel(running.first, request_id, reason, index))

    async def abort(self, request_ids: Collection[str] | None) -> int:
        ids = None if request_ids is None else list(request_ids)
        count: int = await self._ask(lambda call: Abort(call, ids))
        return count

    async def load(self) -> Load:
        load: Load = await self._ask(AskLoad)
        return load

    def fail(self, error: Unavailable) -> None:
        """The engine is gone: all that runs or waits for an answer ends with `error`, and so does the rest."""
        self._error = error
        self.ended.set()
        self._hub.fail_all(error)
        waiting = [*self._calls.values(), *(answer for _, answer in self._submitted.values())]
        for answer in waiting:
            if not answer.done():
                answer.set_exception(error)
        for table in (self._slots, self._running, self._submitted, self._calls):
            table.clear()

    def close(self) -> None:
        self._outputs.close()
        self._control.close()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _send(self, message: ToEngine) -> None:
        self._control.send(encode(message))

    async def _ask(self, question: Any) -> Any:
        self._check()
        call, self._next = self._next, self._next + 1
        answer = self._calls[call] = asyncio.get_running_loop().create_future()
        self._send(question(call))
        try:
            return await answer
        finally:
            self._calls.pop(call, None)

    def _take_answers(self, message: list[bytes]) -> None:
        (body,) = message
        match decode_to_frontend(body):
            case Accepted(first):
                self._settle(first, None)
            case Refused(first, error):
                self._settle(first, error)
            case Aborted(call, count):
                self._answer(call, count)
            case LoadIs(call, load):
                self._answer(call, load)

    def _answer(self, call: int, value: Any) -> None:
        answer = self._calls.get(call)
        if answer is not None and not answer.done():
            answer.set_result(value)

    def _settle(self, first: int, error: Exception | None) -> None:
        """The engine took a request or refused it; who waited for that may have left."""
        if first not in self._submitted:
            return
        stream, answer = self._submitted.pop(first)
        if error is not None:
            for slot in range(first, first + self._running.pop(stream.request_id).unfinished):
                del self._slots[slot]
            self._hub.forget(stream)
        if not answer.done():
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)

    def _take_outputs(self, message: list[bytes]) -> None:
        """All steps that have come reach their streams before the loop wakes any reader."""
        (body,) = message
        outputs: list[Output] = []
        self._read(decode_outputs(body), outputs)
        self._hub.dispatch(outputs)

    def _read(self, step: Outputs, outputs: list[Output]) -> None:
        slots = self._slots
        for slot, token in zip(step.slots, step.tokens, strict=True):
            if slot in slots:
                request_id, index = slots[slot]
                outputs.append(Output(request_id, index, (token,)))
        for other in step.others:
            if other.slot not in slots:
                continue
            request_id, index = slots[other.slot]
            outputs.append(
                Output(
                    request_id,
                    index,
                    other.token_ids,
                    other.logprobs,
                    other.finish,
                    other.prompt_logprobs,
                )
            )
            if other.finish is not None:
                self._finished(other.slot, request_id)
        if step.last:
            self.ended.set()

    def _finished(self, slot: int, request_id: str) -> None:
        del self._slots[slot]
        running = self._running[request_id]
        running.unfinished -= 1
        if not running.unfinished:
            del self._running[request_id]

"""The engine of another process, as a front end sees it: one that may die and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import zmq

from ..errors import Unavailable
from ..request import FinishReason, Load, Request
from ..stream import Hub, OutputStream
from . import sockets
from .messages import (
    Abort,
    Aborted,
    Accepted,
    AskLoad,
    Busy,
    Cancel,
    Hello,
    LoadIs,
    Refused,
    Submit,
    ToEngine,
    control,
    decode_outputs,
    decode_to_frontend,
    encode,
)
from .questions import Questions
from .running import Running
from .slots import Slots
from .suspects import fingerprint

# An engine may die before it computes anything, of a request that is not on its record then. Nobody takes part in that
# for ever.
_MOST_DEATHS = 5


class RemoteEngine:
    """An `EnginePort` over two sockets: one for questions and answers, one for outputs. Until `connect` it is down.

    A request has started once a step that computes it is launched. One that has not when its engine dies, and whose
    reader has seen nothing, is given to the next engine as it is: it keeps its arrival and its limits. Outputs of the
    dead engine that come later have slots that nobody has any more.

    Args:
        hub: the streams of this front end.
        folder: where the sockets are.
        serial: the number of this front end, never used before.
        over: told the id of each request that was taken and is over, if anybody wants to know.
    """

    def __init__(
        self,
        hub: Hub,
        folder: Path,
        serial: int,
        over: Callable[[str], None] | None = None,
    ) -> None:
        self._over = over
        self.ended = asyncio.Event()  # nothing more comes from the engine
        self.ended.set()
        self._hub = hub
        self._folder = folder
        self._serial = serial
        self._error: Unavailable | None = Unavailable("the engine is not running")
        self._slots = Slots()
        self._running: dict[str, Running] = {}  # in the order of arrival
        self._submitted: dict[int, Running] = {}  # not answered yet
        self._questions = Questions()
        self._endpoint = f"ipc://{folder / f'frontend-{serial}.sock'}"
        pull = sockets.make(zmq.PULL)
        pull.bind(self._endpoint)
        self._outputs = sockets.Inlet(pull, self._take_outputs)
        self._control: sockets.Inlet | None = None
        self._others = 0  # completions of other front ends, by the engine's latest word

    @property
    def up(self) -> bool:
        """Whether requests reach it."""
        return self._error is None

    @property
    def in_flight(self) -> int:
        """Completions that it has, of all front ends."""
        return len(self._slots) + self._others

    def has(self, request_id: str) -> bool:
        """Whether it is to compute this request of the front end, or does."""
        return request_id in self._running

    def connect(self, generation: int) -> None:
        """Talks to this engine from now on, and gives it what the one before it had not started."""
        dealer = sockets.make(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, f"frontend-{self._serial}".encode())
        dealer.connect(f"ipc://{self._folder / control(generation)}")
        self._control = sockets.Inlet(dealer, self._take_answers)
        self._error = None
        self.ended.clear()
        self._send(Hello(self._endpoint, self._serial))
        for running in self._running.values():
            self._submit(running)

    def gone(self, first: Collection[int], error: Unavailable) -> int:
        """The engine died: ends what it computed with `error`, and new requests, until the next one is connected.

        Args:
            first: the first slots of the requests that it computed when it died.

        Returns:
            How many requests wait for the next engine.
        """
        self._outputs.drain()  # what it sent before
        had_them = self._error is None  # else it died before it was ready
        self._down(error)
        for running in list(self._running.values()):
            running.deaths += had_them
            if running.stream.closed:
                self._forget(running)
            elif running.first in first or running.stream.begun or running.deaths > _MOST_DEATHS:
                self._fail(running, error)
        return len(self._running)

    def hand_over(self) -> list[Running]:
        """Gives up what waits for the next engine; see `adopt`."""
        waiting, self._running = list(self._running.values()), {}
        return waiting

    def adopt(self, waiting: Iterable[Running]) -> None:
        """Computes what another engine of this front end has handed over. While it is up."""
        for running in waiting:
            running.stream.cancel_by(self.cancel)
            self._running[running.request.id] = running
            self._submit(running)

    async def start(self, request: Request) -> OutputStream:
        self._check()
        stream = self._hub.open(request.id, request.n, self.cancel)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        running = Running(request, fingerprint(request), stream, answer)
        self._running[request.id] = running
        self._submit(running)
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
        if running is None:
            return
        if self._error is None:
            self._send(Cancel(running.first, request_id, reason, index))
        else:
            self._forget(running)  # only a reader that leaves cancels what has no output

    async def abort(self, request_ids: Collection[str] | None) -> int:
        ids = None if request_ids is None else list(request_ids)
        count: int = await self._ask(lambda call: Abort(call, ids))
        return count

    async def load(self) -> Load:
        load: Load = await self._ask(AskLoad)
        return load

    def fail(self, error: Unavailable) -> None:
        """No engine follows: all that runs or waits for an answer ends with `error`, and so does the rest."""
        self._down(error)
        for running in list(self._running.values()):
            self._fail(running, error)

    def close(self) -> None:
        self._outputs.close()
        if self._control is not None:
            self._control.close()

    def _down(self, error: Unavailable) -> None:
        self._error = error
        self.ended.set()
        if self._control is not None:
            self._control.close()
            self._control = None
        self._questions.fail(error)
        self._slots.clear()
        self._submitted.clear()
        self._others = 0

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _send(self, message: ToEngine) -> None:
        assert self._control is not None
        self._control.send(encode(message))

    def _submit(self, running: Running) -> None:
        request = running.request
        first = self._slots.take(request.id, request.n)
        running.first, running.unfinished = first, request.n
        self._submitted[first] = running
        self._send(Submit(first, request, running.fingerprint, again=running.deaths > 0))

    def _forget(self, running: Running) -> None:
        """Nobody reads what becomes of a request that no engine has."""
        self._drop(running)
        self._hub.forget(running.stream)

    def _fail(self, running: Running, error: Exception) -> None:
        """Tells whoever waits, for its answer or for its outputs."""
        if running.answer.done():
            self._drop(running)
            self._hub.fail(running.stream, error)
        else:
            del self._running[running.request.id]
            self._hub.forget(running.stream)
            running.answer.set_exception(error)

    async def _ask(self, question: Any) -> Any:
        self._check()
        with self._questions.open() as (number, answer):
            self._send(question(number))
            return await answer

    def _take_answers(self, message: list[bytes]) -> None:
        (body,) = message
        match decode_to_frontend(body):
            case Accepted(first):
                self._settle(first, None)
            case Refused(first, error):
                self._settle(first, error)
            case Aborted(call, count):
                self._questions.answer(call, count)
            case LoadIs(call, load):
                self._questions.answer(call, load)
            case Busy(others):
                self._others = others

    def _settle(self, first: int, error: Exception | None) -> None:
        """The engine took a request or refused it; who waited for that may have left, or have got an answer before."""
        running = self._submitted.pop(first, None)
        if running is None:
            return
        if error is not None:
            self._slots.free(first, running.unfinished)
            self._fail(running, error)
        elif not running.answer.done():
            running.answer.set_result(None)

    def _take_outputs(self, message: list[bytes]) -> None:
        """All steps that have come reach their streams before the loop wakes any reader."""
        (body,) = message
        step = decode_outputs(body)
        outputs, ended = self._slots.read(step)
        for request_id in ended:
            self._finished(self._running[request_id])
        if step.last:
            self.ended.set()
        self._hub.dispatch(outputs)

    def _finished(self, running: Running) -> None:
        """One of its completions ended."""
        running.unfinished -= 1
        if not running.unfinished:
            self._drop(running)
            if not running.answer.done():  # that comes by the other socket
                running.answer.set_result(None)

    def _drop(self, running: Running) -> None:
        del self._running[running.request.id]
        if self._over is not None:
            self._over(running.request.id)

"""The engine's side of the sockets: which front end owns which request, and where its outputs go."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path

import zmq

from ..engine import Engine
from ..errors import InvalidRequest, PacelineError, Violation
from ..request import FinishReason, Output
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
    Other,
    Outputs,
    Refused,
    Submit,
    ToFrontend,
    decode_to_engine,
    encode,
)

logger = logging.getLogger(__name__)


class Link:
    """The outputs on their way to one front end. Belongs to the engine's thread, but for `gone`."""

    def __init__(self, endpoint: str) -> None:
        self.gone = False
        self._endpoint = endpoint
        self._socket: zmq.Socket[bytes] | None = None
        self._batch = Outputs([], [], [])
        self._others: set[int] = set()  # the slots of the batch's `others`

    @property
    def empty(self) -> bool:
        """Whether nothing is to be sent."""
        return not (self._batch.slots or self._batch.others)

    def add(self, slot: int, output: Output) -> None:
        batch, tokens = self._batch, output.token_ids
        plain = len(tokens) == 1 and output.finish is None
        plain = plain and not (output.logprobs or output.prompt_logprobs)
        if plain and slot not in self._others:
            batch.slots.append(slot)
            batch.tokens.append(tokens[0])
        else:
            more = (output.logprobs, output.finish, output.prompt_logprobs)
            batch.others.append(Other(slot, tokens, *more))
            self._others.add(slot)

    def flush(self, last: bool = False) -> None:
        """Sends what gathered as one message. Never blocks: the socket has no bound."""
        batch, self._batch = self._batch, Outputs([], [], [])
        self._others.clear()
        if self.gone:
            return
        if self._socket is None:
            # Connecting from this side, nothing is lost before the connection stands.
            self._socket = sockets.make(zmq.PUSH)
            self._socket.connect(self._endpoint)
        batch.last = last
        self._socket.send(encode(batch), zmq.NOBLOCK)

    def close(self) -> None:
        """Drops what a front end that is gone did not take, and sends the rest."""
        if self._socket is not None:
            self._socket.close(linger=0 if self.gone else None)
            self._socket = None


class _Owned:
    """A request in flight: its front end, the slot of its first completion, and how many still run."""

    __slots__ = ("first", "link", "unfinished")

    def __init__(self, link: Link, first: int, unfinished: int) -> None:
        self.link = link
        self.first = first
        self.unfinished = unfinished


class Exchange:
    """Takes what front ends ask for, on the loop's thread, and hands out outputs, on the engine's.

    Request ids are unique over all front ends: one stays taken until the engine has ended its completions.
    """

    def __init__(self, folder: Path) -> None:
        self._engine: Engine | None = None
        self._links: dict[bytes, Link] = {}
        self._owned: dict[
            str, _Owned
        ] = {}  # added to by the loop's thread, emptied by the engine's
        self._gone: set[bytes] = set()
        self._to_close: deque[Link] = deque()
        control = sockets.make(zmq.ROUTER)
        control.bind(f"ipc://{folder / CONTROL}")
        self._inlet = sockets.Inlet(control, self._take)

    def open(self, engine: Engine) -> None:
        """Requests go to this engine, whose `deliver` is ours. Before any front end is told of us."""
        self._engine = engine

    def deliver(self, outputs: list[Output]) -> None:
        """Sends a step's outputs to their front ends, one message for each; on the engine's thread."""
        while self._to_close:
            self._to_close.popleft().close()
        touched: list[Link] = []
        for output in outputs:
            owned = self._owned.get(output.request_id)
            if owned is None:
                continue
            if output.finish is not None:
                owned.unfinished -= 1
                if not owned.unfinished:
                    del self._owned[output.request_id]
            if owned.link.empty:
                touched.append(owned.link)
            owned.link.add(owned.first + output.index, output)
        for link in touched:
            link.flush()

    def forget(self, serial: int) -> None:
        """A front end is gone: its requests are cancelled, and what it still asks for is not heard."""
        identity = _identity(serial)
        self._gone.add(identity)
        link = self._links.pop(identity, None)
        if link is None:
            return
        link.gone = True
        orphans = [name for name, owned in self._owned.copy().items() if owned.link is link]
        for request_id in orphans:
            self._running.cancel(request_id)
        self._to_close.append(link)
        logger.warning("front end %d is gone: cancelled %d requests", serial, len(orphans))

    def finish(self) -> None:
        """Tells every front end that nothing follows. After the engine has stopped, for its thread is done."""
        for link in self._links.values():
            link.flush(last=True)

    def close(self) -> None:
        """After the engine has stopped. Idempotent."""
        for link in (*self._links.values(), *self._to_close):
            link.close()
        self._inlet.close()

    @property
    def _running(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def _take(self, message: list[bytes]) -> None:
        identity, body = message
        if identity in self._gone:
            return
        answer = self._handle(identity, body)
        if answer is not None:
            self._inlet.send(identity, encode(answer))

    def _handle(self, identity: bytes, body: bytes) -> ToFrontend | None:
        match decode_to_engine(body):
            case Hello(endpoint):
                self._links[identity] = Link(endpoint)
            case Submit() as submit:
                return self._submit(self._links[identity], submit)
            case Cancel(first, request_id, reason, index):
                owned = self._owned.get(request_id)
                # The id may be another request's by now, even another front end's.
                if owned and owned.link is self._links[identity] and owned.first == first:
                    self._running.cancel(request_id, reason, index)
            case Abort(call, request_ids):
                return Aborted(call, self._abort(request_ids))
            case AskLoad(call):
                return LoadIs(call, self._running.load())
        return None

    def _submit(self, link: Link, submit: Submit) -> ToFrontend:
        request = submit.request
        if request.id in self._owned:
            in_flight = Violation("generation.request_id", "a request with this id is in flight")
            return Refused(submit.first, InvalidRequest(in_flight))
        self._owned[request.id] = _Owned(link, submit.first, request.n)
        try:
            self._running.submit(request)
        except PacelineError as exc:
            del self._owned[request.id]
            return Refused(submit.first, exc)
        return Accepted(submit.first)

    def _abort(self, request_ids: list[str] | None) -> int:
        wanted = self._owned.copy() if request_ids is None else set(request_ids)
        found = [request_id for request_id in wanted if request_id in self._owned]
        for request_id in found:
            self._running.cancel(request_id, FinishReason.ABORTED)
        return len(found)


def _identity(serial: int) -> bytes:
    return b"frontend-%d" % serial

"""The way of outputs from the engine to one front end: one message a step."""

from __future__ import annotations

import zmq

from ..request import Output
from . import sockets
from .messages import Other, Outputs, encode


class Link:
    """The outputs on their way to one front end. Belongs to the engine's thread, but for `gone`."""

    def __init__(self, endpoint: str, serial: int) -> None:
        self.gone = False
        self.serial = serial
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

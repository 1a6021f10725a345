"""ZeroMQ sockets on an event loop: everything that has come is taken at once, and nothing blocks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import zmq

logger = logging.getLogger(__name__)

# Lasts as long as the process, like the threads that ZeroMQ runs for it.
_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
_LINGER_MS = 1000  # for what is sent just before the process ends


def make(kind: int) -> zmq.Socket[bytes]:
    """A socket without a high-water mark: what waits in it is bounded by the requests in flight."""
    socket = _context.socket(kind)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.LINGER, _LINGER_MS)
    return socket


class Inlet:
    """Calls `take` with each message, a list of frames: whenever some came, with all in one go.

    An error of `take` is one message's: it is logged, and the others are taken all the same.
    """

    def __init__(self, socket: zmq.Socket[bytes], take: Callable[[list[bytes]], None]) -> None:
        self._socket = socket
        self._take = take
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self.drain)
        self._loop.call_soon(self.drain)  # the descriptor tells of news only

    def send(self, *frames: bytes) -> None:
        """Sends on the same socket. That may swallow the news of a message, so it is looked for."""
        self._socket.send_multipart(frames, zmq.NOBLOCK)
        self._loop.call_soon(self.drain)

    def close(self) -> None:
        """Idempotent."""
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close()

    def drain(self) -> None:
        """Takes what has come by now."""
        if self._socket.closed:
            return
        messages: list[list[bytes]] = []
        try:
            while True:
                messages.append(self._socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass
        for message in messages:
            try:
                self._take(message)
            except Exception:
                logger.exception("a message of another process was lost")

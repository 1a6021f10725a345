"""The playground's side of HTTP: refuses what does not come from our own page, and passes lines on as they come."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
from http import HTTPStatus
from queue import Empty, SimpleQueue

from .play import Play, Player, failure
from .web import Handler

HEADER = "Paceline-Playground"  # no page of another origin can send it: browsers ask first, and we never agree
_MOST_BYTES = 1024 * 1024
_MOST_AT_ONCE = 8
_LOOK_S = 0.2  # how often a reader who waits is looked after
_LONGEST_TOKEN = 4096


class Stage:
    """Answers POSTs of the playground, on web threads.

    Args:
        off: why there is no playground; None: there is one.
    """

    def __init__(self, off: str | None) -> None:
        self.off = off
        self._loop: asyncio.AbstractEventLoop | None = None
        self._player: Player | None = None
        self._places = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def open(self, player: Player) -> None:
        """Plays go to this player from now on; on its loop's thread."""
        self._loop, self._player = asyncio.get_running_loop(), player

    def answer(self, handler: Handler) -> None:
        """Answers one POST: lines of JSON, or a refusal."""
        length = handler.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            _refuse(handler, HTTPStatus.LENGTH_REQUIRED, "INVALID_ARGUMENT", "how long is it?")
        elif int(length) > _MOST_BYTES:
            message = f"a prompt of this page has at most {_MOST_BYTES} bytes"
            _refuse(handler, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RESOURCE_EXHAUSTED", message)
        else:
            self._hear(handler, handler.rfile.read(int(length)))

    def _hear(self, handler: Handler, body: bytes) -> None:
        refusal = self._refusal(handler)
        if refusal is not None:
            _refuse(handler, *refusal)
        elif not self._places.acquire(blocking=False):
            message = f"{_MOST_AT_ONCE} prompts of this page are being answered"
            _refuse(handler, HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", message)
        else:
            try:
                self._perform(handler, body)
            finally:
                self._places.release()

    def _refusal(self, handler: Handler) -> tuple[HTTPStatus, str, str] | None:
        """Why not: HTTP's status, gRPC's, and in words."""
        forbidden, headers = (HTTPStatus.FORBIDDEN, "PERMISSION_DENIED"), handler.headers
        if self.off is not None:
            return *forbidden, f"there is no playground: {self.off}"
        if headers.get_all("Origin") != [f"http://{handler.host}"]:
            return *forbidden, "this is for the page of this server alone"
        if headers.get(HEADER) is None or headers.get_content_type() != "application/json":
            return *forbidden, f"JSON and the header {HEADER} are needed"
        token = headers.get("Authorization", "")
        if len(token) > _LONGEST_TOKEN or not (token.isascii() and token.isprintable()):
            return HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", "this is no token"
        if self._player is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "the server is starting"
        return None

    def _perform(self, handler: Handler, body: bytes) -> None:
        assert self._loop is not None and self._player is not None
        lines: SimpleQueue[bytes] = SimpleQueue()
        play = Play(body, handler.headers.get("Authorization", ""), lines.put)
        # The loop is closed when the server is: then nothing is to be begun or cancelled.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._player.begin, play)
            try:
                handler.begin(HTTPStatus.OK, "application/x-ndjson")
                while line := _next(lines, handler.connection):
                    handler.wfile.write(line + b"\n")
            except OSError:  # the reader is gone, or takes nothing
                pass
            finally:
                self._loop.call_soon_threadsafe(self._player.cancel, play)


def _next(lines: SimpleQueue[bytes], connection: socket.socket) -> bytes:
    """The next line; ConnectionError if the reader went away before it came."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while True:
        with contextlib.suppress(Empty):
            return lines.get(timeout=_LOOK_S)
        if poll.poll(0) and not connection.recv(1, socket.MSG_PEEK):
            raise ConnectionError("the reader is gone")


def _refuse(handler: Handler, status: HTTPStatus, code: str, message: str) -> None:
    line = failure(code, message) + b"\n"
    handler.begin(status, "application/x-ndjson", len(line))
    handler.wfile.write(line)

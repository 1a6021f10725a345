"""The load generator's OpenAI-compatible side: streamed completions over HTTP, one connection per stream in flight.

Only the standard library: Locust patches its sockets, so that a read waits in its greenlet alone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from paceline.loadgen.access import Access
from paceline.loadgen.openai_body import path_and_body
from paceline.loadgen.openai_events import Answer, Failed, status_of
from paceline.loadgen.prompt import Prompt
from paceline.loadgen.wire import Said, Take, WireError

READ_BYTES = 65_536
REFUSED = (401, 403)  # who asks may not
DETAILS = 300  # characters of an error's body that are kept


class OpenAIWire:
    """Connections to one server, kept open between requests. `target` is its base URL, for example http://host:8000/v1.

    Args:
        model: name to ask for; empty: the first that the server lists.
        chat: send every text as a user's message to /chat/completions.
        strict: send no field that OpenAI's own API does not have.
    """

    protocol = "openai"

    def __init__(
        self,
        target: str,
        *,
        model: str = "",
        chat: bool = False,
        strict: bool = False,
        access: Access | None = None,
    ) -> None:
        access = access or Access()
        self.target = target
        self.model = model
        self._chat = chat
        self._strict = strict
        self._url = urlsplit(target)
        self._context_tokens = 0
        self._idle: list[http.client.HTTPConnection] = []
        self._tls = _tls(access) if self._url.scheme == "https" else None
        token = access.token()
        self._headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def connect(self, timeout_s: float) -> str:
        """Ask what the server has: its name of the model is needed, and a connection is then open."""
        try:
            with contextlib.closing(self.open(timeout_s)) as connection:
                path = f"{self._url.path}/models"
                connection.request("GET", path, headers=self._headers)
                response = connection.getresponse()
                body = response.read()
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        if response.status != http.client.OK:
            # Some servers cannot list a model that was given to them as a folder, and serve it all the same.
            listless = self.model and response.status not in REFUSED
            return "" if listless else f"{response.status} for {path}: {_shown(body)}"
        with contextlib.suppress(ValueError, LookupError, TypeError):
            first = json.loads(body)["data"][0]
            self.model = self.model or first["id"]
            self._context_tokens = int(first.get("max_model_len") or 0)
        return ""

    def reachable(self, timeout_s: float) -> bool:
        """Whether somebody listens there: a server that is too busy to answer is not gone."""
        try:
            with contextlib.closing(self.open(timeout_s)) as connection:
                connection.connect()
        except OSError:
            return False
        return True

    def context_tokens(self, timeout_s: float) -> int:
        """vLLM's `max_model_len`, if `connect` found it; other servers do not say."""
        return self._context_tokens

    def exchange(self, prompt: Prompt) -> OpenAIExchange:
        path, body = path_and_body(prompt, self.model, chat=self._chat, strict=self._strict)
        return OpenAIExchange(self, self._url.path + path, json.dumps(body).encode())

    @property
    def headers(self) -> dict[str, str]:
        return self._headers

    def take_connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """An idle one that the server has not closed, or a new one, connected: a request is never sent twice."""
        while self._idle:
            connection = self._idle.pop()
            if _quiet(connection.sock):
                connection.sock.settimeout(timeout_s)
                return connection
            connection.close()
        connection = self.open(timeout_s)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        self._idle.append(connection)

    def open(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection that is not connected yet."""
        host, port = self._url.hostname or "", self._url.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _tls(access: Access) -> ssl.SSLContext:
    roots = access.roots()
    return ssl.create_default_context(cadata=roots.decode() if roots else None)


def _quiet(sock: socket.socket | None) -> bool:
    """Nothing to read: the server has neither closed the connection nor sent what nobody asked for."""
    return sock is not None and not select.select([sock], [], [], 0)[0]


def _shown(body: bytes) -> str:
    """An error's message, else the beginning of the body."""
    text = body.decode(errors="replace")
    with contextlib.suppress(ValueError, LookupError, TypeError):
        told: Any = json.loads(text)
        error = told.get("error") or told["detail"]  # FastAPI's own name for it
        text = str(error["message"] if isinstance(error, dict) else error)
    return text[:DETAILS]


class OpenAIExchange:
    """One streamed completion."""

    def __init__(self, wire: OpenAIWire, path: str, body: bytes) -> None:
        self.said = Said()
        self._wire = wire
        self._path = path
        self._body = body
        self._connection: http.client.HTTPConnection | None = None
        self._cancelled = False

    def run(self, timeout_s: float, take: Take) -> bool:
        until_s = time.monotonic() + timeout_s
        whole = False
        try:
            self._connection = connection = self._wire.take_connection(timeout_s)
            connection.request("POST", self._path, self._body, self._wire.headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise WireError(status_of(response.status), _shown(response.read()))
            whole, wanted = self._read(connection, response, until_s, take)
            if self._cancelled:
                raise WireError("CANCELLED", "by the client")
            return wanted
        except Failed as error:
            raise WireError(error.status, error.details) from None
        except TimeoutError:
            raise WireError("DEADLINE_EXCEEDED", f"nothing within {timeout_s:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            status = "CANCELLED" if self._cancelled else "UNAVAILABLE"
            raise WireError(status, f"{type(error).__name__}: {error}") from None
        finally:
            self._leave(reusable=whole)

    def cancel(self) -> None:
        """Shut the connection down: whoever reads it wakes up at its end."""
        self._cancelled = True
        sock = self._connection.sock if self._connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _read(
        self,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        until_s: float,
        take: Take,
    ) -> tuple[bool, bool]:
        """Reads to the end of the body: (it came whole, its reader stayed to the end)."""
        answer = Answer(self.said, take)
        sock, rest = connection.sock, b""
        while data := response.read1(READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not answer.line(line):
                    return False, False
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            if sock is not None:
                sock.settimeout(left_s)
        if not self._cancelled:
            answer.end()
        return response.isclosed() and not response.will_close, True

    def _leave(self, *, reusable: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if reusable and not self._cancelled:
            self._wire.give_back(connection)
        else:
            connection.close()

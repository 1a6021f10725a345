"""An OpenAI-compatible HTTP server whose answers follow a script, run as a process of its own.

It prints its port on the first line. A prompt (or a chat's last message) that is a JSON object scripts its own
answer: {"first_ms", "gap_ms", "per_message", "status", "break_after", "error_after", "usage", "name"}. Each stream
that ended is a line of the file given by `--log`: when it began and when each message left, in the clock of
`time.perf_counter`, and what was asked.
"""

from __future__ import annotations

import argparse
import json
import ssl
import sys
import time
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OWN = {"model", "prompt", "messages", "max_tokens", "temperature", "seed", "stream"}
OWN |= {"stream_options", "stop", "top_p"}


@dataclass(frozen=True)
class Script:
    """How one request is answered.

    Attributes:
        break_after, error_after: messages with text after which the connection is dropped, or an error event sent.
        usage: "end" of the stream, in "each" message, with the "last" one's finish reason, or "none".
    """

    first_ms: float = 5.0
    gap_ms: float = 2.0
    per_message: int = 1
    status: int = 200
    break_after: int = -1
    error_after: int = -1
    usage: str = "end"
    name: str = ""


class Server(ThreadingHTTPServer):
    """Knows what every connection shares."""

    daemon_threads = True
    log: Path | None = None
    api_key = ""
    strict = False


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open between requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # as servers of streams do: no message waits for the one before to be acknowledged
    )
    server: Server

    def log_message(self, *_values: Any) -> None:
        """The test's output stays clean."""

    def do_GET(self) -> None:
        if self.server.strict:
            self._answer(500, {"detail": "cannot list models"})
            return
        models = {"object": "list", "data": [{"id": "scripted", "max_model_len": 4096}]}
        self._answer(200 if self.path == "/v1/models" else 404, models)

    def do_POST(self) -> None:
        begun_s = time.perf_counter()
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.server.api_key
        if key and self.headers["Authorization"] != f"Bearer {key}":
            self._answer(401, {"error": {"message": "wrong key"}})
            return
        chat = self.path == "/v1/chat/completions"
        text = asked["messages"][-1]["content"] if chat else asked["prompt"]
        scripted = isinstance(text, str) and text.startswith("{")
        if unknown := self.server.strict and set(asked) - OWN:
            self._answer(422, {"detail": f"Unexpected fields in the request: {unknown}"})
            return
        script = Script(**json.loads(text)) if scripted else Script()
        if script.status != 200:
            self._answer(script.status, {"error": {"message": "as scripted"}})
            return
        left_s: list[float] = []
        whole = False
        try:
            whole = self._stream(asked, script, left_s, chat=chat)
        except OSError:
            self.close_connection = True
        self._note(asked, script, begun_s, left_s, whole)

    def _stream(
        self, asked: dict[str, Any], script: Script, left_s: list[float], *, chat: bool
    ) -> bool:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        wanted, sent, message = asked["max_tokens"], 0, 0
        prompt_tokens = 7

        def event(text: str, finish: str | None = None) -> None:
            choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
            choice |= {"delta": {"content": text}} if chat else {"text": text}
            value: dict[str, Any] = {"choices": [choice]}
            if script.usage == "each" or (finish and script.usage == "last"):
                value["usage"] = {"prompt_tokens": prompt_tokens, "completion_tokens": sent}
            self._event(json.dumps(value))

        event("")  # as servers do: the role, no text
        time.sleep(script.first_ms / 1e3)
        while sent < wanted:
            if sent:
                time.sleep(script.gap_ms / 1e3)
            if message == script.break_after:
                self.close_connection = True
                return False
            if message == script.error_after:
                self._event(json.dumps({"error": {"message": "out of luck", "code": 503}}))
                break
            count = min(script.per_message, wanted - sent)
            sent, message = sent + count, message + 1
            left_s.append(time.perf_counter())
            event("word " * count)
        event("", "length")
        if script.usage == "end":
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": sent}
            self._event(json.dumps({"choices": [], "usage": usage}))
        self._event("[DONE]")
        self._chunk(b"")
        return True

    def _event(self, data: str) -> None:
        self._chunk(f"data: {data}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _note(
        self,
        asked: dict[str, Any],
        script: Script,
        begun_s: float,
        left_s: list[float],
        whole: bool,
    ) -> None:
        if self.server.log is not None:
            line = {"asked": asked, "script": asdict(script), "path": self.path, "whole": whole}
            with self.server.log.open("a") as log:
                log.write(json.dumps(line | {"begun_s": begun_s, "left_s": left_s}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--certificate", help="PEM file with certificate and key: serve over TLS")
    parser.add_argument("--strict", action="store_true", help="refuse what OpenAI's API lacks")
    arguments = parser.parse_args()
    server = Server(("127.0.0.1", 0), Handler)
    server.log, server.api_key = arguments.log, arguments.api_key
    server.strict = arguments.strict
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()

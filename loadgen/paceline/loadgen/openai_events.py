"""Reads the events of one streamed completion: tokens, usage, finish reason, errors. Pure."""

from __future__ import annotations

import json
from typing import Any

from paceline.loadgen.wire import Said, Take

DONE = b"[DONE]"
STATUSES = {
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
# Some servers say with a word what went wrong after the first event.
CODES = {
    "deadline_exceeded": "DEADLINE_EXCEEDED",
    "rate_limit_exceeded": "RESOURCE_EXHAUSTED",
    "unavailable": "UNAVAILABLE",
}
FINISH_NAMES = {"stop": "EOS", "length": "MAX_TOKENS"}
TEXTS = ("content", "reasoning_content", "reasoning")


class Failed(Exception):
    """The server ended the stream with an error, or did not end it at all."""

    def __init__(self, status: str, details: str) -> None:
        super().__init__(details)
        self.status = status
        self.details = details


def status_of(code: int) -> str:
    """gRPC's name of what an HTTP status means."""
    if code in STATUSES:
        return STATUSES[code]
    return "INVALID_ARGUMENT" if 400 <= code < 500 else "INTERNAL"


class Answer:
    """Takes the lines of an event stream and tells `take` of each message with tokens.

    A message that says how many tokens there are so far is believed, unless earlier ones did not: then it is the last
    one, and says the total. Otherwise one with text counts as one token,
    and the total that comes at the end is to be spread over the messages: `Said.shared_out`.
    """

    def __init__(self, said: Said, take: Take) -> None:
        self._said = said
        self._take = take
        self._count = 0
        self._done = False

    def line(self, line: bytes) -> bool:
        """One line without its newline. False: the reader leaves. Raises Failed, ValueError for what is no JSON."""
        if not line.startswith(b"data:"):
            return True
        data = line[5:].strip()
        if data == DONE:
            self._done = True
            return True
        event = json.loads(data)
        if error := event.get("error"):
            raise _failed(error)
        choices, usage = event.get("choices"), event.get("usage")
        wanted = self._message(choices[0], usage) if choices else True
        if usage:
            self._used(usage)
        return wanted or bool(self._said.finish)

    def end(self) -> None:
        """The stream is over. Failed where it broke off before its end."""
        if not self._done and not self._said.finish:
            raise Failed("UNAVAILABLE", "the stream broke off")

    def _message(self, choice: dict[str, Any], usage: dict[str, Any] | None) -> bool:
        text = _text(choice)
        if usage and not self._said.shared_out:
            count = (usage.get("completion_tokens") or 0) - self._count
        else:
            count = 1 if text else 0
            self._said.shared_out |= bool(text)
        wanted = True
        if count > 0:
            before, self._count = self._count, self._count + count
            wanted = self._take(count, before, text)
        if reason := choice.get("finish_reason"):
            self._said.finish = FINISH_NAMES.get(reason, str(reason).upper())
        return wanted

    def _used(self, usage: dict[str, Any]) -> None:
        said = self._said
        said.prompt_tokens = usage.get("prompt_tokens") or said.prompt_tokens
        said.output_tokens = usage.get("completion_tokens") or said.output_tokens
        details = usage.get("prompt_tokens_details") or {}
        said.cached_tokens = details.get("cached_tokens") or said.cached_tokens


def _text(choice: dict[str, Any]) -> str:
    """A completion's text, or what a chat's delta holds: its answer or what it thinks before."""
    delta = choice.get("delta")
    if delta is None:
        return choice.get("text") or ""
    return next((delta[name] for name in TEXTS if delta.get(name)), "")


def _failed(error: Any) -> Failed:
    if not isinstance(error, dict):
        return Failed("INTERNAL", str(error))
    code = error.get("code")
    status = status_of(code) if isinstance(code, int) else CODES.get(str(code), "INTERNAL")
    return Failed(status, str(error.get("message") or error))

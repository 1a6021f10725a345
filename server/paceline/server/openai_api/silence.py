"""HTTP/1.1 that does not wait for ever: a connection that asks nothing, or too slowly, is closed."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEAD_S = 20.0  # for the head of a request to come, from the connection or the last answer on


class PatientProtocol(H11Protocol):
    """uvicorn's own timer ends with the first byte after an answer, and there is none before one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """DONE: answered, and the rest of the body is still to come."""
        if self.conn.our_state not in (h11.IDLE, h11.DONE):
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(_HEAD_S, self.timeout_keep_alive_handler)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

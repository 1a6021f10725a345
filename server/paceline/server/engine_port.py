"""The engine as a front end sees it, whichever process it runs in; and the one of this process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from .engine import Engine
from .request import FinishReason, Load, Request
from .stream import Hub, OutputStream


class EnginePort(Protocol):
    """Takes requests and gives their outputs as streams. Belongs to one event loop."""

    async def start(self, request: Request) -> OutputStream:
        """Submits a request; its outputs come in the stream, and leaving that early cancels it.

        Raises:
            InvalidRequest: it can never fit, or its id is in flight.
            QueueFull: too much is waiting.
            Unavailable: the engine is draining or not running.
        """
        ...

    def cancel(
        self,
        request_id: str,
        reason: FinishReason = FinishReason.CANCELLED,
        index: int | None = None,
    ) -> None:
        """Ends completions (or one) of a request that was started here. Unknown ids are no error."""
        ...

    async def abort(self, request_ids: Collection[str] | None) -> int:
        """Ends these requests of the server, all for None, with what they made; how many there were."""
        ...

    async def load(self) -> Load:
        """What the engine is doing now. Unavailable where nobody can say."""
        ...


class LocalEngine:
    """The port of an engine in this process."""

    def __init__(self, engine: Engine, hub: Hub) -> None:
        self._engine = engine
        self._hub = hub

    async def start(self, request: Request) -> OutputStream:
        stream = self._hub.open(request.id, request.n, self._engine.cancel)
        try:
            self._engine.submit(request)
        except Exception:
            self._hub.forget(stream)
            raise
        return stream

    def cancel(
        self,
        request_id: str,
        reason: FinishReason = FinishReason.CANCELLED,
        index: int | None = None,
    ) -> None:
        self._engine.cancel(request_id, reason, index)

    async def abort(self, request_ids: Collection[str] | None) -> int:
        wanted = self._hub.request_ids if request_ids is None else set(request_ids)
        found = [request_id for request_id in wanted if request_id in self._hub]
        for request_id in found:
            self._engine.cancel(request_id, FinishReason.ABORTED)
        return len(found)

    async def load(self) -> Load:
        return self._engine.load()

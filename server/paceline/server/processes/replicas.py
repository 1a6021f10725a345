"""The engines of a server, as a front end sees them: each request goes to one, and to another if that one dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..config import ServeConfig
from ..engine_port import EnginePort
from ..errors import QueueFull, Unavailable
from ..facts import Facts
from ..request import FinishReason, Load, Request
from ..stream import Hub, OutputStream
from .claims import Claims
from .loads import total
from .remote_engine import RemoteEngine
from .routing import Router
from .shares import folder_of

T = TypeVar("T")

_RETRY_S = 0.5  # while others live: until they know whom to suspect


class Replicas:
    """An `EnginePort` over one engine or several, any of which may die and come back.

    Args:
        engines: in the order of their numbers.
        router: knows as many.
        claims: ids of the whole server, which the engines release.
    """

    def __init__(self, engines: Sequence[RemoteEngine], router: Router, claims: Claims) -> None:
        self._claims = claims
        self._engines = engines
        self._router = router
        self._away: dict[int, Unavailable] = {}  # of the engines that died

    @classmethod
    def of(
        cls,
        hub: Hub,
        folder: Path,
        serial: int,
        config: ServeConfig,
        facts: Facts,
        claims: Claims,
    ) -> Replicas:
        """Those of the server whose folder this is; none is connected yet. `facts` are any engine's."""
        release = claims.release if config.replicas > 1 else None
        engines = [
            RemoteEngine(hub, folder_of(number, config, folder), serial, release)
            for number in range(config.replicas)
        ]
        router = Router(
            config.replicas,
            page_size=config.page_size if config.prefix_cache else 0,
            pages=facts.num_pages,
            slack=-(-config.max_batch_size // 4),
            first=serial,
        )
        return cls(engines, router, claims)

    @property
    def port(self) -> EnginePort:
        """What requests go through: where there is one engine, that engine."""
        return self._engines[0] if len(self._engines) == 1 else self

    def connect(self, replica: int, generation: int) -> None:
        """This engine serves from now on, and computes what no living one has."""
        engine = self._engines[replica]
        self._away.pop(replica, None)
        engine.connect(generation)
        for other in self._engines:
            if not other.up:
                engine.adopt(other.hand_over())

    def gone(self, replica: int, first: Collection[int], back_in_s: float) -> int:
        """An engine died; what it had not started goes to another one, if there is one, or waits.

        Args:
            first: the first slots of the requests that it computed when it died.
            back_in_s: when the next one is expected.

        Returns:
            How many requests had not started.
        """
        engine = self._engines[replica]
        self._router.forget(replica)
        self._away[replica] = Unavailable("the engine is restarting", back_in_s)
        others = any(other.up for other in self._engines if other is not engine)
        lost = Unavailable("the engine died", min(_RETRY_S, back_in_s))
        left = engine.gone(first, lost if others else self._away[replica])
        for running in engine.hand_over() if others else ():
            route = self._router.route(running.request.prompt_ids, self._loads)
            self._router.sent(route.order[0], route.pages)
            self._engines[route.order[0]].adopt([running])
        return left

    async def start(self, request: Request) -> OutputStream:
        """As `EnginePort.start`: QueueFull if every engine's queue is full."""
        await self._claims.take(request.id)
        try:
            return await self._submit(request)
        except BaseException:
            # An engine that has it, though the caller has left, releases it at its end.
            if not any(engine.has(request.id) for engine in self._engines):
                self._claims.release(request.id)
            raise

    async def _submit(self, request: Request) -> OutputStream:
        loads = self._loads
        if not loads:
            raise self._error
        route = self._router.route(request.prompt_ids, loads)
        refusals: list[QueueFull] = []
        for replica in route.order:
            engine = self._engines[replica]
            if not engine.up:  # it died while another one refused
                continue
            self._router.sent(replica, route.pages)
            try:
                return await engine.start(request)
            except QueueFull as exc:
                refusals.append(exc)
        raise min(refusals, key=_delay) if refusals else self._error

    def cancel(
        self,
        request_id: str,
        reason: FinishReason = FinishReason.CANCELLED,
        index: int | None = None,
    ) -> None:
        for engine in self._engines:
            engine.cancel(request_id, reason, index)  # one alone knows it

    async def abort(self, request_ids: Collection[str] | None) -> int:
        return sum(count or 0 for count in await self._ask(lambda each: each.abort(request_ids)))

    async def load(self) -> Load:
        return total(await self._ask(lambda each: each.load()))

    def fail(self, error: Unavailable) -> None:
        """No engine follows: all that runs or waits for an answer ends with `error`, and so does the rest."""
        for engine in self._engines:
            engine.fail(error)

    async def ended(self) -> None:
        """Returns when nothing more comes from any engine."""
        for engine in self._engines:
            await engine.ended.wait()

    @property
    def _loads(self) -> dict[int, int]:
        """Completions in flight of each engine that is up."""
        return {i: engine.in_flight for i, engine in enumerate(self._engines) if engine.up}

    @property
    def _error(self) -> Unavailable:
        """Why there is no engine: of the one that is back first."""
        away = self._away.values()
        return min(away, key=_delay, default=Unavailable("the engine is not running"))

    async def _ask(
        self, question: Callable[[RemoteEngine], Coroutine[Any, Any, T]]
    ) -> list[T | None]:
        """What each engine answers, None for one that is down. Unavailable if all are."""

        async def answer(engine: RemoteEngine) -> T | None:
            try:
                return await question(engine)
            except Unavailable:
                return None

        answers = await asyncio.gather(*map(answer, self._engines))
        if all(each is None for each in answers):
            raise self._error
        return answers


def _delay(error: QueueFull | Unavailable) -> float:
    return error.retry_after_s or 0.0

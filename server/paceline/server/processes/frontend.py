"""A front end's process: gRPC, tokenising and detokenising, on a port that others listen on too."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Coroutine
from pathlib import Path

from .. import security, tokenizer
from ..config import ServeConfig
from ..errors import SetupError, Unavailable
from ..frontend import Frontend
from ..guidance import Guides
from ..listener import Listener
from ..play import Play
from ..playground import Playground
from ..stream import Hub
from ..tally import Tally
from ..threads import in_daemon_thread
from . import child
from .claims import Claims
from .orders import (
    TOKENIZER,
    AwaitIdle,
    CancelPlay,
    Claimed,
    Close,
    Done,
    EngineGone,
    FromFrontend,
    Leave,
    Listening,
    Observed,
    Open,
    Perform,
    Performed,
    Pipe,
    Serving,
    SetupFailed,
    StartFrontend,
    ToFrontend,
)
from .replicas import Replicas
from .shares import folder_of

logger = logging.getLogger(__name__)

_PUBLISH_S = 0.2
_LAST_OUTPUTS_S = 2.0  # for what the engine sent before it stopped


class FrontendProcess:
    """Follows the supervisor's orders."""

    def __init__(self, pipe: Pipe[ToFrontend], order: StartFrontend) -> None:
        self._pipe = pipe
        self._order = order
        self._config = ServeConfig.model_validate(order.config)
        self._tally = Tally()
        self._listener = Listener(self._config, self._tally)
        self._private: Path | None = None
        if security.no_playground(self._config) is None:
            self._private = Path(order.folder) / f"page-{order.serial}"
        self._playground = None if self._private is None else Playground(self._private)
        self._plays: dict[int, Play] = {}
        self._engines: Replicas | None = None
        self._claims = Claims(self._tell)
        self._frontend: Frontend | None = None
        self._hub = Hub(asyncio.get_running_loop())
        self._up: dict[
            int, int
        ] = {}  # the generations of the engines that are up, by their numbers
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """The exit code."""
        try:
            order = self._order
            await self._listener.bind(
                order.port, order.http_port, shared=True, private=self._private
            )
        except SetupError as exc:
            self._tell(SetupFailed(str(exc)))
            return 2
        self._tell(Listening())
        self._in_background(in_daemon_thread(tokenizer.prepare))  # while the engine loads the model
        publishing = asyncio.create_task(self._publish())
        self._following = asyncio.create_task(self._follow())
        try:
            await self._following
        except asyncio.CancelledError:  # by a task of ours that failed
            return 1
        await self._close()
        publishing.cancel()
        self._report()
        return 0

    async def _follow(self) -> None:
        """Obeys orders up to the last one."""
        while not isinstance(order := await self._pipe.receive(), Close):
            if order is None:
                child.abandoned()
            else:
                await self._obey(order)

    async def _obey(self, order: ToFrontend) -> None:
        match order:
            case Open(_, generation, replica):
                self._up[replica] = generation
                self._in_background(self._open(order))
            case Leave(call):
                await self._listener.leave()
                self._tell(Done(call))
            case AwaitIdle(call, timeout_s):
                self._in_background(self._report_answered(call, timeout_s))
            case Perform() if self._playground is not None:
                self._perform(order, self._playground)
            case CancelPlay(call):
                play = self._plays.get(call)
                if play is not None and self._playground is not None:
                    self._playground.cancel(play)
            case Claimed(call, ok):
                self._claims.answered(call, ok)
            case EngineGone(first, back_in_s, replica):
                self._up.pop(replica, None)  # else it died before it was ready
                if not self._up:
                    await self._listener.not_serving()
                if self._engines is not None:
                    left = self._engines.gone(replica, first, back_in_s)
                    logger.debug("%d requests go to another engine, or wait for one", left)

    async def _open(self, order: Open) -> None:
        async with self._opening:
            if self._engines is None:
                self._engines = await self._load(order)
            if self._up.get(order.replica) != order.generation:
                return  # it has died since, and the next one is announced too
            self._engines.connect(order.replica, order.generation)
            await self._listener.serving()
            if not self._up:
                await self._listener.not_serving()
        self._tell(Serving())

    async def _load(self, order: Open) -> Replicas:
        config, folder, facts = self._config, Path(self._order.folder), order.facts
        tokens = await in_daemon_thread(
            lambda: tokenizer.load(
                folder_of(order.replica, config, folder) / TOKENIZER, config.trust_remote_code
            )
        )
        engines = Replicas.of(self._hub, folder, self._order.serial, config, facts, self._claims)
        model = facts.model
        self._frontend = Frontend(
            engines.port,
            tokens,
            model,
            facts.limits(config),
            self._tally,
            guides=Guides.of(tokens, model.vocab_size, model.eos_token_ids),
        )
        self._listener.answer(self._frontend, facts.info(config))
        return engines

    def _perform(self, order: Perform, playground: Playground) -> None:
        def put(line: bytes) -> None:
            self._tell(Performed(order.call, line))
            if not line:
                del self._plays[order.call]

        play = self._plays[order.call] = Play(order.body, order.authorization, put)
        playground.begin(play)

    async def _report_answered(self, call: int, timeout_s: float) -> None:
        self._tell(Done(call, await self._listener.answered(timeout_s)))

    async def _close(self) -> None:
        await self._listener.leave()
        if self._engines is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._engines.ended(), _LAST_OUTPUTS_S)
            self._engines.fail(Unavailable("the server is shutting down"))
        await self._listener.close()
        if self._playground is not None:
            await self._playground.close()
        if self._frontend is not None:
            self._frontend.close()

    async def _publish(self) -> None:
        while True:
            await asyncio.sleep(_PUBLISH_S)
            self._report()

    def _report(self) -> None:
        if not self._tally.empty:
            self._tell(Observed(self._tally.take()))

    def _in_background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._check)

    def _check(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the front end failed", exc_info=error)
            if self._following is not None:
                self._following.cancel()

    def _tell(self, message: FromFrontend) -> None:
        self._pipe.send(message)


def _without_torch() -> None:
    """Where transformers finds torch it imports it: seconds, and memory that tokenizers do not need."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # it would warn that there is none


async def _main(pipe: Pipe[ToFrontend]) -> int:
    order = await pipe.receive()
    if not isinstance(order, StartFrontend):
        child.abandoned()
    child.configure_logs(order.config)
    _without_torch()
    return await FrontendProcess(pipe, order).run()


if __name__ == "__main__":
    sys.exit(child.run(_main, ToFrontend))

"""A server of several processes: starts them, watches over them, and lets them go in order. Loads no torch, no gRPC."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

from .. import drain, listen, security
from ..config import ServeConfig
from ..console import Console
from ..errors import SetupError
from ..facts import Facts
from ..request import Load
from ..server_info import ServerInfo
from .frontends import Frontends
from .launch import ANSWER_S, Child
from .orders import (
    AwaitIdle,
    Close,
    EngineGone,
    FromEngine,
    FrontendGone,
    LoadNow,
    Ready,
    Refuse,
    StartEngine,
    Stop,
)

if TYPE_CHECKING:  # it is named here, and called in the engine's process
    from ..loader import Loader

logger = logging.getLogger(__name__)

_ENGINE = "paceline.server.processes.engine"
_HISTORY_S = 1.0
_END_S = 10.0  # for a child to end by itself
_STOP_S = 60.0  # for the step that is being computed when the engine is told to stop


class EngineView:
    """The engine as of its latest word. Any thread."""

    def __init__(self) -> None:
        self.healthy = False
        self.latest = Load()

    def load(self) -> Load:
        return self.latest


class Supervisor:
    """One server, with the same phases as `App`: `bind`, `load`, perhaps `drain`, and always `close`."""

    def __init__(self, config: ServeConfig, loader: Loader, frontends: int) -> None:
        self.port = 0
        self.info: ServerInfo | None = None
        self.failed = asyncio.Event()  # the engine died
        self._config = config
        self._loader = _name_of(loader)
        self._count = frontends
        self._console = Console(config)
        self._view = EngineView()
        self._folder: Path | None = None
        self._reserved: socket.socket | None = None
        self._frontends: Frontends | None = None
        self._engine: Child[FromEngine] | None = None
        self._ready: asyncio.Future[Facts] = asyncio.get_running_loop().create_future()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._engine_ended: asyncio.Task[None] | None = None

    @property
    def metrics_port(self) -> int | None:
        return self._console.port

    async def bind(self) -> None:
        """Takes the ports. From now on health answers NOT_SERVING. SetupError if a port cannot be had."""
        config = self._config
        security.check(config)
        listen.check_free(config.host, config.port, "--port")
        self._reserved = listen.reserve(config.host, config.port, "--port")
        self.port = self._reserved.getsockname()[1]
        self._console.open()
        # Nobody else may reach the sockets: mkdtemp lets in its owner alone.
        self._folder = Path(tempfile.mkdtemp(prefix="paceline-"))
        self._frontends = Frontends(
            config, self.port, self._folder, self._console.metrics.tally, self._frontend_gone
        )
        await self._frontends.start(self._count)

    async def load(self) -> None:
        """Loads the model and warms it up, then serves. SetupError if it cannot be loaded."""
        assert self._frontends is not None
        order = StartEngine(self._config.model_dump(mode="json"), self._loader, str(self._folder))
        self._engine = await Child[FromEngine].start(_ENGINE, order, FromEngine)
        self._engine_ended = asyncio.create_task(self._watch(self._engine))
        facts = await self._ready
        self.info = facts.info(self._config)
        self._console.watch(self._view, self.info)
        self._run(self._remember())
        await self._frontends.open(facts)

    async def drain(self, force: asyncio.Event) -> bool:
        """Lets what runs finish; whether it did, before the time was up or `force` was set."""
        config = self._config
        return await drain.drain(
            self, delay_s=config.drain_delay_s, timeout_s=config.drain_timeout_s, force=force
        )

    async def close(self) -> None:
        """Ends every process. What still runs is aborted, and told so. Idempotent."""
        self._closing = True
        if self._frontends is not None:
            await self._frontends.leave()
            await self.abort()
            await self._frontends.close(_END_S)
        await self._end_engine()
        for task in self._tasks:
            task.cancel()
        self._console.close()
        if self._reserved is not None:
            self._reserved.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def announce(self) -> None:
        """Health says NOT_SERVING from now on, at every front end."""
        assert self._frontends is not None
        await self._frontends.leave()

    async def refuse(self) -> None:
        """New requests are refused from now on."""
        assert self._engine is not None
        await self._engine.ask(Refuse)

    async def finished(self, timeout_s: float) -> bool:
        """Waits until the engine is idle and every reader has its answer; whether that came true in time."""
        assert self._engine is not None and self._frontends is not None
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        if not await self._engine.ask(
            lambda call: AwaitIdle(call, timeout_s), timeout_s + ANSWER_S
        ):
            return False
        return await self._frontends.answered(max(0.0, until - loop.time()))

    async def abort(self) -> None:
        """Ends what runs with ABORTED. Idempotent."""
        if self._engine is None or not self._ready.done() or self._ready.cancelled():
            return  # nothing runs on a model that is not there
        await self._engine.ask(Stop, _STOP_S)

    async def _watch(self, engine: Child[FromEngine]) -> None:
        """Reads what the engine says until it ends. To restart an engine, this is the place."""
        code = await engine.follow(self._take)
        self._view.healthy = False
        if not self._ready.done():
            line = engine.line or "the engine could not start; the log has the reason"
            self._ready.set_exception(SetupError(line))
        elif not self._closing:
            logger.critical("the engine died (exit code %d): not serving any more", code)
            if self._frontends is not None:
                self._frontends.tell(EngineGone())
            self.failed.set()

    def _take(self, message: FromEngine) -> None:
        match message:
            case Ready(facts) if not self._ready.done():
                self._view.healthy = True
                self._ready.set_result(facts)
            case LoadNow(load):
                self._view.latest = load

    def _frontend_gone(self, serial: int) -> None:
        if self._engine is not None:
            self._engine.send(FrontendGone(serial))

    async def _remember(self) -> None:
        while True:
            self._console.remember()
            await asyncio.sleep(_HISTORY_S)

    async def _end_engine(self) -> None:
        if self._engine is None or self._engine_ended is None:
            return
        if self._ready.done():
            self._engine.send(Close())
        else:
            self._ready.cancel()
            self._engine.kill()  # loading cannot be stopped
        try:
            await asyncio.wait_for(asyncio.shield(self._engine_ended), _END_S)
        except TimeoutError:
            self._engine.kill()
            await self._engine_ended

    def _run(self, work: Coroutine[object, object, None]) -> None:
        self._tasks.append(asyncio.create_task(work))


def _name_of(loader: Loader) -> str:
    """`module:function`, for a process that imports it again."""
    name = f"{loader.__module__}:{loader.__qualname__}"
    if "<" in name or "__main__" in name:
        raise SetupError(f"front ends need a loader that can be imported, not {name}")
    return name

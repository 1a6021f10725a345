"""A server of several processes: starts them, watches over them, and lets them go in order. Loads no torch, no gRPC."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

from .. import drain, listen, security
from ..config import ServeConfig
from ..console import Console
from ..errors import SetupError
from ..facts import Facts
from ..server_info import ServerInfo
from .engines import Audience, Engines
from .frontends import Frontends

if TYPE_CHECKING:  # it is named here, and called in the engine's process
    from ..loader import Loader

_HISTORY_S = 1.0
_END_S = 10.0  # for a child to end by itself


class Supervisor:
    """One server, with the same phases as `App`: `bind`, `load`, perhaps `drain`, and always `close`."""

    def __init__(self, config: ServeConfig, loader: Loader, frontends: int) -> None:
        self.port = 0
        self.http_port: int | None = None
        self.info: ServerInfo | None = None
        self.failed = asyncio.Event()  # no engine is left, and none can be started again
        self._config = config
        self._loader = _name_of(loader)
        self._count = frontends
        self._console = Console(config, "restarting")
        self._folder: Path | None = None
        self._reserved: list[socket.socket] = []
        self._frontends: Frontends | None = None
        self._engines: Engines | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def metrics_port(self) -> int | None:
        return self._console.port

    async def bind(self) -> None:
        """Takes the ports. From now on health answers NOT_SERVING. SetupError if a port cannot be had."""
        config = self._config
        security.check(config)
        listen.check_free(config.host, config.port, "--port")
        self.port = self._reserve(config.port, "--port")
        if config.http_port is not None:
            listen.check_free(config.host, config.http_port, "--http-port")
            self.http_port = self._reserve(config.http_port, "--http-port")
        self._console.open()
        # Nobody else may reach the sockets: mkdtemp lets in its owner alone.
        self._folder = Path(tempfile.mkdtemp(prefix="paceline-"))
        self._frontends = Frontends(
            config,
            (self.port, self.http_port),
            self._folder,
            self._console.metrics.tally,
            self._frontend_gone,
        )
        self._console.stage.open(self._frontends)
        await self._frontends.start(self._count)

    async def load(self) -> None:
        """Loads the model and warms it up, then serves. SetupError if it cannot be loaded."""
        assert self._frontends is not None and self._folder is not None
        audience = Audience(self._engine_ready, self._frontends.engine_gone)
        self._engines = Engines(self._config, self._loader, self._folder, audience)
        self.failed = self._engines.failed
        facts = await self._engines.start()
        self.info = facts.info(self._config)
        self._console.watch(self._engines, self.info, self._engines.views)
        self._run(self._remember())
        await self._frontends.serving()

    async def drain(self, force: asyncio.Event) -> bool:
        """Lets what runs finish; whether it did, before the time was up or `force` was set."""
        config = self._config
        return await drain.drain(
            self, delay_s=config.drain_delay_s, timeout_s=config.drain_timeout_s, force=force
        )

    async def close(self) -> None:
        """Ends every process. What still runs is aborted, and told so. Idempotent."""
        if self._frontends is not None:
            await self._frontends.leave()
            await self.abort()
            await self._frontends.close(_END_S)
        if self._engines is not None:
            await self._engines.close()
        for task in self._tasks:
            task.cancel()
        self._console.close()
        for each in self._reserved:
            each.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def announce(self) -> None:
        """Health says NOT_SERVING from now on, at every front end."""
        assert self._frontends is not None
        await self._frontends.leave()

    async def refuse(self) -> None:
        """New requests are refused from now on."""
        assert self._engines is not None
        await self._engines.refuse()

    async def finished(self, timeout_s: float) -> bool:
        """Waits until the engine is idle and every reader has its answer; whether that came true in time."""
        assert self._engines is not None and self._frontends is not None
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        if not await self._engines.idle(timeout_s):
            return False
        return await self._frontends.answered(max(0.0, until - loop.time()))

    async def abort(self) -> None:
        """Ends what runs with ABORTED. Idempotent."""
        if self._engines is not None:
            await self._engines.stop()

    def _reserve(self, port: int, flag: str) -> int:
        reserved = listen.reserve(self._config.host, port, flag)
        self._reserved.append(reserved)
        number: int = reserved.getsockname()[1]
        return number

    def _engine_ready(self, facts: Facts, generation: int, replica: int) -> None:
        assert self._frontends is not None
        if generation > 1:
            self._console.metrics.restarted(time.time(), replica)
        self._frontends.open(facts, generation, replica)

    def _frontend_gone(self, serial: int) -> None:
        if self._engines is not None:
            self._engines.frontend_gone(serial)

    async def _remember(self) -> None:
        while True:
            self._console.remember()
            await asyncio.sleep(_HISTORY_S)

    def _run(self, work: Coroutine[object, object, None]) -> None:
        self._tasks.append(asyncio.create_task(work))


def _name_of(loader: Loader) -> str:
    """`module:function`, for a process that imports it again."""
    name = f"{loader.__module__}:{loader.__qualname__}"
    if "<" in name or "__main__" in name:
        raise SetupError(f"front ends need a loader that can be imported, not {name}")
    return name

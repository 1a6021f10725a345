"""A server in one process, its life in named phases: bind, load, serve, drain, close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from . import drain, facts, listen, security
from .config import ServeConfig
from .console import Console
from .engine import Engine
from .engine_port import LocalEngine
from .errors import Unavailable
from .frontend import Frontend
from .guidance import Guides
from .listener import Listener
from .loader import Loaded, Loader
from .playground import Playground
from .request import FinishReason
from .server_info import ServerInfo
from .stream import Hub
from .tally import Tally
from .threads import in_daemon_thread
from .torch_loader import load_torch

logger = logging.getLogger(__name__)

_WATCH_S = 0.25  # how often the engine's health is looked at
_HISTORY_EVERY = 4  # of those looks, for the status page


class App:
    """One server. Call `bind`, `load`, perhaps `drain`, and always `close`, in this order.

    Args:
        listener: what answers calls, of this kind, made with the settings and who is told how calls end.
    """

    def __init__(
        self,
        config: ServeConfig,
        loader: Loader = load_torch,
        listener: Callable[[ServeConfig, Tally], Listener] = Listener,
    ) -> None:
        self.port = 0
        self.http_port: int | None = None
        self.info: ServerInfo | None = None
        self.engine: Engine | None = None
        self.failed = asyncio.Event()  # the engine died
        self._config = config
        self._loader = loader
        self._console = Console(config)
        self._listener = listener(config, self._console.metrics.tally)
        self._folder: Path | None = None  # of the playground's socket
        self._playground: Playground | None = None
        self._hub: Hub | None = None
        self._frontend: Frontend | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def metrics_port(self) -> int | None:
        return self._console.port

    async def bind(self) -> None:
        """Takes the ports. From now on health answers NOT_SERVING. SetupError if a port cannot be had."""
        config = self._config
        security.check(config)
        listen.check_free(config.host, config.port, "--port")
        self._console.open()
        private = self._private_socket()
        self.port, self.http_port = await self._listener.bind(
            config.port, config.http_port, private=private
        )
        if private is not None:
            self._playground = Playground(private)
            self._console.stage.open(self._playground)

    def _private_socket(self) -> Path | None:
        """Where the playground reaches our own service."""
        if security.no_playground(self._config) is not None:
            return None
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="paceline-"))  # lets in its owner alone
        except OSError as exc:
            logger.warning("no playground: %s", exc)
            return None
        return self._folder / "page"

    async def load(self) -> None:
        """Loads the model and warms it up, then serves. SetupError if it cannot be loaded."""
        self._hub = hub = Hub(asyncio.get_running_loop())
        loaded, engine, guides = await in_daemon_thread(lambda: self._start_engine(hub))
        self.engine = engine
        found = facts.gather(loaded, engine)
        self.info = info = found.info(self._config)
        self._frontend = Frontend(
            LocalEngine(engine, hub),
            loaded.tokenizer,
            info.model,
            found.limits(self._config),
            self._console.metrics.tally,
            guides=guides,
        )
        self._console.watch(engine, info)
        self._watcher = asyncio.create_task(self._watch(engine, hub))
        await self._listener.open(self._frontend, info)

    async def drain(self, force: asyncio.Event) -> bool:
        """Lets what runs finish; whether it did, before the time was up or `force` was set."""
        config = self._config
        return await drain.drain(
            self, delay_s=config.drain_delay_s, timeout_s=config.drain_timeout_s, force=force
        )

    async def close(self) -> None:
        """Gives everything back. What still runs is aborted, and told so. Idempotent."""
        await self._listener.leave()
        await self.abort()
        await self._listener.close()
        if self._playground is not None:
            await self._playground.close()
        if self._frontend is not None:
            self._frontend.close()
        self._console.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def announce(self) -> None:
        """Health says NOT_SERVING from now on."""
        await self._listener.leave()

    async def refuse(self) -> None:
        """New requests are refused from now on."""
        if self.engine is not None:
            self.engine.drain()

    async def finished(self, timeout_s: float) -> bool:
        """Waits until the engine is idle and every reader has its answer; whether that came true in time."""
        engine, loop = self.engine, asyncio.get_running_loop()
        if engine is None:
            return True
        until = loop.time() + timeout_s
        if not engine.healthy or not await asyncio.to_thread(engine.wait_idle, timeout_s):
            return False
        return await self._listener.answered(max(0.0, until - loop.time()))

    async def abort(self) -> None:
        """Ends what runs with ABORTED and what the engine left open with Unavailable. Idempotent."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self.engine is not None and not self._stopped:
            self._stopped = True
            await asyncio.to_thread(self.engine.stop, FinishReason.ABORTED)
        if self._hub is not None:
            self._hub.fail_all(Unavailable("the server is shutting down"))

    def _start_engine(self, hub: Hub) -> tuple[Loaded, Engine, Guides | None]:
        loaded = self._loader(self._config)
        guides = loaded.guides()
        engine = Engine(loaded.runner, self._config, hub.deliver, guides=guides)
        engine.start()
        return loaded, engine, guides

    async def _watch(self, engine: Engine, hub: Hub) -> None:
        look = 0
        while True:
            if not engine.healthy:
                logger.critical("the engine died: not serving any more")
                await self._listener.not_serving()
                hub.fail_all(Unavailable("the engine is not running"))
                self.failed.set()
                return
            if look % _HISTORY_EVERY == 0:
                self._console.remember()
            look += 1
            await asyncio.sleep(_WATCH_S)


@contextlib.asynccontextmanager
async def running_app(config: ServeConfig, loader: Loader) -> AsyncIterator[App]:
    """A server that serves, for tests and embedding; closed on leaving."""
    app = App(config, loader)
    try:
        await app.bind()
        await app.load()
        yield app
    finally:
        await app.close()

"""A server and its clients on an event loop of their own, in a thread: for tests that drive them step by step."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

from paceline.server.app import App
from paceline.server.config import ServeConfig
from paceline.server.loader import Loaded
from paceline.v1 import generation_pb2_grpc as rpc

WAIT_S = 30.0
T = TypeVar("T")


class BackgroundServer:
    """Serves what `loaded` holds. Settings are those of ServeConfig."""

    def __init__(self, loaded: Loaded, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._config = ServeConfig.model_validate({"port": 0, "metrics_port": None, **settings})
        self._loaded = loaded
        self.app, self.channel = self.run(self._start())
        self.stub: Any = rpc.GenerationServiceStub(self.channel)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.app.port}"

    def run(self, work: Coroutine[object, object, T]) -> T:
        """The result of `work`, done on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def spawn(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Starts `work` on the loop."""

        async def start() -> asyncio.Task[T]:
            return asyncio.create_task(work)

        return self.run(start())

    def close(self) -> None:
        """Ends everything, the thread included."""
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    async def _start(self) -> tuple[App, grpc.aio.Channel]:
        app = App(self._config, lambda _: self._loaded)
        await app.bind()
        await app.load()
        return app, grpc.aio.insecure_channel(f"127.0.0.1:{app.port}")

    async def _stop(self) -> None:
        await self.channel.close()
        await self.app.close()

"""The server's life in named phases: bind, load, serve, drain, close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from paceline.v1 import generation_pb2_grpc as rpc

from . import listen, status_page
from .config import ServeConfig
from .engine import Engine, Runner
from .errors import Unavailable
from .frontend import Frontend
from .history import History
from .job import Limits
from .metrics import Metrics
from .request import FinishReason
from .rpc import REQUESTS, SERVICE, GenerationService
from .rpc_guard import Guard
from .server_info import ServerInfo
from .stream import Hub
from .tokenizer import Tokenizer
from .web import Page, Web

logger = logging.getLogger(__name__)
T = TypeVar("T")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

LOADING_THREAD = "paceline-load"
_MAX_REQUEST_BYTES = 4 * 1024 * 1024
_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    # A second server on the same port must fail, not take every other connection.
    ("grpc.so_reuseport", 0),
    # Clients may ping a quiet connection this often; gRPC's own bound of 300 s cuts long silent calls.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client whose machine is gone is noticed, and its pages freed.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients look the name up again now and then, so that new replicas get their share. Calls end in peace.
    ("grpc.max_connection_age_ms", 30 * 60_000),
]
_WATCH_S = 0.25  # how often the engine's health is looked at
_HISTORY_EVERY = 4  # of those looks, for the status page
_LAST_WORDS_S = 5.0  # for calls to send what they have after the engine stopped


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading gives: a runner that is not warm yet, and the model's tokenizer."""

    runner: Runner
    tokenizer: Tokenizer
    num_threads: int = 1


Loader = Callable[[ServeConfig], Loaded]


def load_torch(config: ServeConfig) -> Loaded:
    """The model that `config` names, on torch. SetupError if it cannot be loaded."""
    from .runner.make import load_runner

    loaded, runner = load_runner(config, config)
    return Loaded(runner, loaded.tokenizer, loaded.num_threads)


class App:
    """One server. Call `bind`, `load`, perhaps `drain`, and always `close`, in this order."""

    def __init__(self, config: ServeConfig, loader: Loader = load_torch) -> None:
        self.port = 0
        self.metrics_port: int | None = None
        self.info: ServerInfo | None = None
        self.engine: Engine | None = None
        self._config = config
        self._loader = loader
        self._metrics = Metrics()
        self._history = History()
        self._guard = Guard(SERVICE, REQUESTS)
        self._service = GenerationService(self._metrics)
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._web: Web | None = None
        self._hub: Hub | None = None
        self._frontend: Frontend | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopped = False

    async def bind(self) -> None:
        """Takes the ports. From now on health answers NOT_SERVING. SetupError if a port cannot be had."""
        config = self._config
        listen.check_exposure(config.host, config.insecure)
        listen.check_free(config.host, config.port, "--port")
        if config.metrics_port is not None:
            self._web = self._open_web(config.host, config.metrics_port)
            self.metrics_port = self._web.port
        server = grpc.aio.server(interceptors=[self._guard], options=_OPTIONS)
        self._server = server
        rpc.add_GenerationServiceServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        await self._set_health(NOT_SERVING)
        try:
            self.port = server.add_insecure_port(listen.target(config.host, config.port))
        except RuntimeError as exc:
            raise listen.cannot_listen(config.host, config.port, "--port", OSError(exc)) from exc
        await server.start()

    async def load(self) -> None:
        """Loads the model and warms it up, then serves. SetupError if it cannot be loaded."""
        self._hub = hub = Hub(asyncio.get_running_loop())
        loaded, engine = await _in_daemon_thread(lambda: self._start_engine(hub))
        self.engine = engine
        self.info = info = self._describe(loaded, engine)
        limits = _limits(info, engine.max_context)
        self._frontend = Frontend(engine, hub, loaded.tokenizer, info.model, limits, self._metrics)
        self._metrics.watch(engine)
        self._service.open(self._frontend, info)
        self._watcher = asyncio.create_task(self._watch(engine, hub))
        await self._set_health(SERVING)

    async def drain(self, force: asyncio.Event) -> bool:
        """Lets what runs finish; whether it did, before the time was up or `force` was set.

        In order: NOT_SERVING, a while for load balancers to notice, refuse new requests, wait, abort the rest
        (each with what it made so far).
        """
        await self._health.enter_graceful_shutdown()
        if self.engine is None:
            return True
        engine = self.engine
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(force.wait(), self._config.drain_delay_s)
        engine.drain()
        clean = engine.healthy and await self._wait_idle(engine, force)
        if not clean:
            logger.warning("drain cut short: aborting what still runs")
        await self._stop_engine()
        return clean

    async def close(self) -> None:
        """Gives everything back. What still runs is aborted, and told so. Idempotent."""
        await self._health.enter_graceful_shutdown()
        await self._stop_engine()
        if self._server is not None:
            # Health watchers never end by themselves, so only our own calls are waited for.
            await self._guard.wait_idle(_LAST_WORDS_S)
            await self._server.stop(grace=0.2)
        if self._frontend is not None:
            self._frontend.close()
        if self._web is not None:
            self._web.close()
            self._web = None

    def _start_engine(self, hub: Hub) -> tuple[Loaded, Engine]:
        loaded = self._loader(self._config)
        engine = Engine(loaded.runner, self._config, hub.deliver)
        engine.start()
        return loaded, engine

    def _describe(self, loaded: Loaded, engine: Engine) -> ServerInfo:
        return ServerInfo(
            config=self._config,
            default_max_tokens=self._config.default_max_tokens,
            model=loaded.runner.info,
            num_pages=engine.load().pages_total,
            num_threads=loaded.num_threads,
            has_chat_template=loaded.tokenizer.has_chat_template,
        )

    async def _stop_engine(self) -> None:
        """Ends what runs with ABORTED and what the engine left open with Unavailable. Idempotent."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self.engine is not None and not self._stopped:
            self._stopped = True
            await asyncio.to_thread(self.engine.stop, FinishReason.ABORTED)
        if self._hub is not None:
            self._hub.fail_all(Unavailable("the server is shutting down"))

    async def _wait_idle(self, engine: Engine, force: asyncio.Event) -> bool:
        if engine.wait_idle(0) and await self._guard.wait_idle(0):
            return True  # nothing to force
        idle = asyncio.create_task(self._answered(engine))
        forced = asyncio.create_task(force.wait())
        done, _ = await asyncio.wait({idle, forced}, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if idle in done:
            return idle.result()
        await self._stop_engine()  # which makes the engine idle, and its waiter return
        idle.cancel()
        return False

    async def _answered(self, engine: Engine) -> bool:
        """Waits until the engine is idle and every reader, slow ones too, has its answer."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._config.drain_timeout_s
        idle = await asyncio.to_thread(engine.wait_idle, self._config.drain_timeout_s)
        return idle and await self._guard.wait_idle(max(0.0, until - loop.time()))

    async def _watch(self, engine: Engine, hub: Hub) -> None:
        look = 0
        while True:
            if not engine.healthy:
                logger.critical("the engine died: not serving any more")
                await self._set_health(NOT_SERVING)
                hub.fail_all(Unavailable("the engine is not running"))
                return
            if look % _HISTORY_EVERY == 0:
                self._history.add(engine.load())
            look += 1
            await asyncio.sleep(_WATCH_S)

    async def _set_health(self, status: Any) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)

    def _open_web(self, host: str, port: int) -> Web:
        pages = {
            "/": Page("text/html; charset=utf-8", status_page.html),
            "/status.json": Page("application/json", self._status),
            "/metrics": Page("text/plain; version=0.0.4; charset=utf-8", self._metrics.text),
        }
        try:
            return Web(host, port, pages)
        except OSError as exc:
            raise listen.cannot_listen(host, port, "--metrics-port", exc) from exc

    def _status(self) -> bytes:
        engine, info = self.engine, self.info
        if engine is None or info is None:
            return status_page.loading_json(self._config.model or "")
        load = engine.load()
        state = "draining" if load.draining else "serving"
        return status_page.status_json(
            info, load, self._history, state if engine.healthy else "failed"
        )


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


def _limits(info: ServerInfo, max_context: int) -> Limits:
    return Limits(
        vocab_size=info.model.vocab_size,
        max_context=max_context,
        max_queue_requests=info.config.max_queue_requests,
        max_queue_tokens=info.config.max_queue_tokens,
        default_max_tokens=info.default_max_tokens,
        eos_token_ids=frozenset(info.model.eos_token_ids),
        has_chat_template=info.has_chat_template,
    )


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """The result of `work`. Unlike asyncio's own threads this one keeps no process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work())
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, name=LOADING_THREAD, daemon=True).start()
    return await asyncio.wrap_future(future)

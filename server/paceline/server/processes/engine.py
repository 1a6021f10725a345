"""The engine's process: loads the model, computes steps, and talks to front ends over sockets."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from pathlib import Path

from .. import facts
from ..collector import settle
from ..config import ServeConfig
from ..engine import Engine
from ..errors import SetupError
from ..loader import Loaded, Loader
from ..request import FinishReason
from ..threads import in_daemon_thread
from . import child
from .exchange import Exchange
from .flight_record import FlightRecord
from .orders import (
    TOKENIZER,
    AwaitIdle,
    Cleared,
    Close,
    Done,
    FromEngine,
    FrontendGone,
    LoadNow,
    Pipe,
    Ready,
    Refuse,
    SetupFailed,
    StartEngine,
    Stop,
    Suspected,
    ToEngine,
    record_name,
)
from .quarantine import Quarantine
from .recorded import RecordedRunner

logger = logging.getLogger(__name__)

_PUBLISH_S = 0.1


class EngineProcess:
    """Follows the supervisor's orders."""

    def __init__(self, pipe: Pipe[ToEngine], order: StartEngine) -> None:
        self._pipe = pipe
        self._config = ServeConfig.model_validate(order.config)
        self._folder = Path(order.folder)
        self._loader = _find(order.loader)
        self._record = self._folder / record_name(order.generation)
        self._exchange = Exchange(
            self._folder,
            order.generation,
            Quarantine(order.deaths),
            lambda fingerprint: self._tell(Cleared(fingerprint)),
        )
        self._engine: Engine | None = None
        self._stopped = False
        self._waiter: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """The exit code."""
        serving = asyncio.create_task(self._serve())
        orders = asyncio.create_task(self._follow())
        await asyncio.wait({serving, orders}, return_when=asyncio.FIRST_COMPLETED)
        first, other = (serving, orders) if serving.done() else (orders, serving)
        other.cancel()
        if self._stopped:
            self._exchange.close()
        return first.result()

    async def _serve(self) -> int:
        try:
            loaded, engine = await in_daemon_thread(self._start)
        except SetupError as exc:
            self._tell(SetupFailed(str(exc)))
            return 2
        except Exception:
            logger.exception("the engine could not start")
            return 1
        self._engine = engine
        self._exchange.open(engine)
        self._tell(Ready(facts.gather(loaded, engine)))
        while engine.healthy or self._stopped:
            self._tell(LoadNow(engine.load()))
            if self._config.replicas > 1:
                self._exchange.announce()
            await asyncio.sleep(_PUBLISH_S)
        logger.critical("the engine died")
        return 1

    async def _follow(self) -> int:
        while (order := await self._pipe.receive()) is not None:
            match order:
                case FrontendGone(serial):
                    if self._engine is not None:
                        self._exchange.forget(serial)
                case Suspected(deaths):
                    self._exchange.know(deaths)
                case Close():
                    return 0
                case _ if self._engine is not None:
                    await self._obey(order, self._engine)
        child.abandoned()

    async def _obey(self, order: ToEngine, engine: Engine) -> None:
        match order:
            case Refuse(call):
                engine.drain()
                self._tell(Done(call))
            case AwaitIdle(call, timeout_s):
                # Not waited for here: meanwhile a second signal may order a stop, which makes the engine idle.
                self._waiter = asyncio.create_task(self._report_idle(engine, call, timeout_s))
            case Stop(call):
                self._stopped = True
                await asyncio.to_thread(engine.stop, FinishReason.ABORTED)
                self._exchange.finish()
                self._tell(LoadNow(engine.load()))
                self._tell(Done(call))

    async def _report_idle(self, engine: Engine, call: int, timeout_s: float) -> None:
        self._tell(Done(call, await asyncio.to_thread(engine.wait_idle, timeout_s)))

    def _start(self) -> tuple[Loaded, Engine]:
        loaded = self._loader(self._config)
        loaded.tokenizer.save(self._folder / TOKENIZER)
        record = FlightRecord(self._record, self._config.max_batch_size, self._exchange.passenger)
        engine = Engine(
            RecordedRunner(loaded.runner, record, _die),
            self._config,
            self._exchange.deliver,
            fatal=_die,
            guides=loaded.guides(),
        )
        engine.start()
        settle()
        return loaded, engine

    def _tell(self, message: FromEngine) -> None:
        self._pipe.send(message)


def _die() -> None:
    """Ends the process at once: the supervisor starts another one, and who was not computed waits for that."""
    logger.critical("the engine cannot go on")
    logging.shutdown()
    os._exit(1)


def _find(loader: str) -> Loader:
    module, _, name = loader.partition(":")
    found: Loader = getattr(importlib.import_module(module), name)
    return found


async def _main(pipe: Pipe[ToEngine]) -> int:
    order = await pipe.receive()
    if not isinstance(order, StartEngine):
        child.abandoned()
    child.configure_logs(order.config)
    return await EngineProcess(pipe, order).run()


if __name__ == "__main__":
    sys.exit(child.run(_main, ToEngine))

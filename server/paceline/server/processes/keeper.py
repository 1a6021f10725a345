"""The engine of a server: started, watched, and started again when it dies or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import ServeConfig
from ..errors import SetupError
from ..facts import Facts
from ..request import Load
from . import flight_record
from .backoff import Backoff
from .engine_view import EngineView
from .flight_record import Passenger
from .launch import ANSWER_S, Child
from .messages import control
from .orders import (
    AwaitIdle,
    Cleared,
    Close,
    FromEngine,
    FrontendGone,
    LoadNow,
    Ready,
    Refuse,
    StartEngine,
    Stop,
    Suspected,
    record_name,
)
from .suspects import Suspects
from .watchdog import Watchdog

logger = logging.getLogger(__name__)

BACKOFF_S = (0.5, 30.0, 60.0)  # the delay before the first restart, the longest, and a steady life
_MODULE = "paceline.server.processes.engine"
_MOST_TRIES = 5  # engines in a row that died before they were ready
_END_S = 10.0  # for the engine to end by itself
_STOP_S = 60.0  # for the step that is being computed when the engine is told to stop


def _nobody(_deaths: Mapping[bytes, int]) -> None:
    """No other engine needs to know."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told of the engine's lives: that one is ready, and that it died, with whom, and when it may be back.

    And of suspects, by fingerprint: how many engines in a row have died of each by now, 0 when it is cleared.
    """

    ready: Callable[[Facts, int], None]
    gone: Callable[[Collection[Passenger], float], None]
    suspected: Callable[[Mapping[bytes, int]], None] = _nobody


class Keeper:
    """Owns the engine's process, one after the other.

    Args:
        loader: `module:function`.
        folder: its own, where sockets and flight records are.
        backoff: how long to wait before a restart.
        suspects: of all engines of the server.
        name: of the engine, in the log.
    """

    def __init__(
        self,
        config: ServeConfig,
        loader: str,
        folder: Path,
        listeners: Listeners,
        backoff: Backoff | None = None,
        suspects: Suspects | None = None,
        name: str = "the engine",
    ) -> None:
        self.view = EngineView()
        self.failed = asyncio.Event()  # it is not started any more
        self._config = config
        self._loader = loader
        self._folder = folder
        self._listeners = listeners
        self._backoff = backoff or Backoff(*BACKOFF_S)
        self._suspects = suspects or Suspects()
        self._name = name
        self._facts: asyncio.Future[Facts] = asyncio.get_running_loop().create_future()
        self._child: Child[FromEngine] | None = None
        self._ready_at: float | None = None  # of the process that lives, by the monotonic clock
        self._start_s = 0.0  # what the latest start took
        self._delay_s = 0.0  # before the next start
        self._on_board: frozenset[Passenger] = frozenset()  # of the latest one that died
        self._hung = False
        self._refusing = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._refusal: asyncio.Task[bool] | None = None

    async def start(self) -> Facts:
        """Returns when the first engine is warm. SetupError if it cannot be loaded: that is not tried again."""
        self._task = asyncio.create_task(self._keep())
        self._task.add_done_callback(self._check)
        return await self._facts

    def frontend_gone(self, serial: int) -> None:
        if self._child is not None:
            self._child.send(FrontendGone(serial))

    def suspected(self, deaths: Mapping[bytes, int]) -> None:
        """Tells the engine, if it lives, what others have died of or have cleared."""
        if self._child is not None:
            self._child.send(Suspected(dict(deaths)))

    async def refuse(self) -> None:
        """New requests are refused from now on, by later engines too."""
        self._refusing = True
        if self._child is not None and self.up:
            await self._child.ask(Refuse)

    @property
    def up(self) -> bool:
        """Whether there is an engine, and it is warm."""
        return self.view.healthy

    async def idle(self, timeout_s: float) -> bool:
        """Waits until nothing runs or waits; whether that came true in time. False at once if it is down or dies."""
        child = self._child
        if child is None or not self.up:
            return False
        return await child.ask(partial(AwaitIdle, timeout_s=timeout_s), timeout_s + ANSWER_S)

    async def stop(self) -> None:
        """Ends what runs with ABORTED. Idempotent."""
        if self._child is not None and self.up:
            await self._child.ask(Stop, _STOP_S)

    async def close(self) -> None:
        """Ends the process, and starts no other one. Idempotent."""
        self._closing = True
        self._facts.cancel()
        task, child = self._task, self._child
        if task is None:
            return
        if child is None:
            task.cancel()  # it waits for a restart
        elif self.up:
            child.send(Close())
        else:
            child.kill()  # loading cannot be stopped
        if child is not None and not await _done(task, _END_S):
            child.kill()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _keep(self) -> None:
        """Keeps an engine until the server closes, or until no engine gets ready any more."""
        tries = 0
        for generation in itertools.count(1):
            end = await self._live(generation)
            if self._closing:
                return
            if not self._facts.done():
                line = self._child and self._child.line
                reason = line or f"{self._name} {end}; the log has the reason"
                self._facts.set_exception(SetupError(reason))
                return
            tries = 0 if self._ready_at is not None else tries + 1
            if tries == _MOST_TRIES:
                logger.critical(
                    "%s %s, and did not get ready %d times: giving up", self._name, end, tries
                )
                self.failed.set()
                return
            await self._mourn(generation, end)

    def _check(self, task: asyncio.Task[None]) -> None:
        """Without a keeper nobody would notice a death."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("%s is not watched any more", self._name, exc_info=error)
            self.failed.set()
            if not self._facts.done():
                self._facts.set_exception(error)

    async def _live(self, generation: int) -> str:
        """One engine from its start to its end, told in words."""
        self._hung, begun = False, time.monotonic()
        order = StartEngine(
            self._config.model_dump(mode="json"),
            self._loader,
            str(self._folder),
            generation,
            self._suspects.deaths,
        )
        self._ready_at = None
        try:
            child = await Child[FromEngine].start(_MODULE, order, FromEngine)
        except OSError as exc:
            self._lost(generation)
            return f"could not be started ({exc})"
        self._child = child
        record, timeout_s = self._folder / record_name(generation), self._config.step_timeout_s
        watchdog = Watchdog(child, record, timeout_s, self._name)
        code = await child.follow(
            lambda message: self._take(message, generation, begun, watchdog),
            lambda: self._lost(generation),
        )
        watchdog.stop()
        self._hung = watchdog.hung
        return _in_words(code, self._hung)

    def _lost(self, generation: int) -> None:
        """The engine is dead: tells what becomes of whom."""
        self.view.healthy, self.view.latest = False, Load()
        if self._closing or not self._facts.done():
            return
        lived_s = 0.0 if self._ready_at is None else time.monotonic() - self._ready_at
        self._delay_s = self._backoff.after(lived_s)
        self._on_board = flight_record.read(self._folder / record_name(generation)).passengers
        # Until the exit code tells: else a client that is quick with its next try gets in beside the one to blame.
        self._tell_deaths(1)
        self._listeners.gone(self._on_board, self._delay_s + self._start_s)

    def _tell_deaths(self, least: int) -> None:
        """What is known of those on board, as if so many engines had died of each at least."""
        deaths, prints = self._suspects.deaths, {each.fingerprint for each in self._on_board}
        self._listeners.suspected({each: max(least, deaths.get(each, 0)) for each in prints})

    async def _mourn(self, generation: int, end: str) -> None:
        """Remembers whom to suspect, and waits before the next start."""
        child, self._child = self._child, None
        # Only somebody else can kill it by signal 9, be it the kernel when memory is short: no request is to blame.
        if self._hung or child is None or child.process.returncode != -signal.SIGKILL:
            self._suspects.blame({each.fingerprint for each in self._on_board})
        self._tell_deaths(0)
        logger.critical(
            "%s %s while it computed %d requests: restarting in %g s",
            self._name,
            end,
            len(self._on_board),
            self._delay_s,
        )
        for name in (record_name(generation), control(generation)):
            (self._folder / name).unlink(missing_ok=True)
        await asyncio.sleep(self._delay_s)

    def _take(self, message: FromEngine, generation: int, begun: float, watchdog: Watchdog) -> None:
        watchdog.heard()
        match message:
            case Ready(facts):
                self._ready(facts, generation, begun)
            case LoadNow(load):
                self.view.latest = load
            case Cleared(fingerprint):
                self._suspects.clear(fingerprint)
                self._listeners.suspected({fingerprint: 0})

    def _ready(self, facts: Facts, generation: int, begun: float) -> None:
        self._ready_at = time.monotonic()
        self._start_s = self._ready_at - begun
        self.view.healthy = True
        if self._refusing and self._child is not None:
            self._refusal = asyncio.create_task(self._child.ask(Refuse))
        if generation > 1:
            logger.warning("%s is ready again, %.1f s after its start", self._name, self._start_s)
        if not self._facts.done():
            self._facts.set_result(facts)
        if not self._facts.cancelled():
            self._listeners.ready(self._facts.result(), generation)


def _in_words(code: int, hung: bool) -> str:
    if hung:
        return "hung"
    return f"died (signal {-code})" if code < 0 else f"died (exit code {code})"


async def _done(task: asyncio.Task[None], timeout_s: float) -> bool:
    done, _ = await asyncio.wait({task}, timeout=timeout_s)
    return bool(done)

"""Shows a headless run's live figures where Locust would print its own table every two seconds."""

from __future__ import annotations

from locust.env import Environment
from locust.runners import STATE_INIT, STATE_SPAWNING, STATE_STOPPED, STATE_STOPPING, Runner

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from rich.console import Console

from paceline.loadgen.live import Live
from paceline.loadgen.live_board import Board, Status, board

LOOK_S = 1.0


class Levels(Protocol):
    """Who goes through a run's levels."""

    @property
    def phase(self) -> str:
        """Of the level that runs: ramp, warm-up, steady, drain; done when all are."""

    def left_s(self) -> float:
        """Seconds that the rest takes at most."""


def show_table(
    environment: Environment, runner: Runner, live: Live, levels: Callable[[], Levels | None]
) -> Callable[[], None]:
    """Take the place of Locust's table; its summary at the end stays. Call what this returns when all is over."""
    assert environment.parsed_options is not None
    environment.parsed_options.only_summary = True
    shown = board(Console())
    terminal = _Terminal(environment, runner, live, shown, levels)
    hook: Any = environment.events.test_start
    hook.add_listener(lambda **_kwargs: terminal.start())
    return terminal.stop


class _Terminal:
    """Owns the board from the run's start to its end."""

    def __init__(
        self,
        environment: Environment,
        runner: Runner,
        live: Live,
        shown: Board,
        levels: Callable[[], Levels | None],
    ) -> None:
        self._levels = levels
        self._environment = environment
        self._runner = runner
        self._live = live
        self._board = shown
        self._streams: list[tuple[logging.StreamHandler[Any], Any]] = []
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        if self._greenlet is not None:
            return
        before = sys.stderr
        self._board.start()
        if (
            sys.stderr is not before
        ):  # the board has put itself before it: log lines must go there too
            self._redirect(before)
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Show the last figures as they are and give the terminal back."""
        if self._greenlet is None:
            return
        self._greenlet.kill(block=True)
        self._greenlet = None
        self._board.show(self._live, Status("done"), time.perf_counter())
        self._board.stop()
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams.clear()

    def _redirect(self, stream: Any) -> None:
        names = [None, *logging.root.manager.loggerDict]
        for handler in {one for name in names for one in logging.getLogger(name).handlers}:
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                self._streams.append((handler, handler.setStream(sys.stderr)))

    def _run(self) -> None:
        while True:
            gevent.sleep(LOOK_S)
            self._board.show(self._live, self._status(), time.perf_counter())

    def _status(self) -> Status:
        levels = self._levels()
        if levels is not None:
            return Status(levels.phase, levels.left_s())
        state = self._runner.state
        if state in (STATE_INIT, STATE_SPAWNING):
            return Status("ramp", self._left_s())
        if state in (STATE_STOPPING, STATE_STOPPED):
            return Status("drain")
        return Status("steady", self._left_s())

    def _left_s(self) -> float | None:
        run_time = getattr(self._environment.parsed_options, "run_time", None)
        spent_s = time.perf_counter() - self._live.began_s
        return max(0.0, run_time - spent_s) if run_time else None

"""Brings the live figures together while Locust runs: users' seconds to the master, the server's load beside them."""

from __future__ import annotations

from locust.env import Environment
from locust.runners import MasterRunner, Runner, WorkerRunner

import logging
import time
from collections.abc import Callable
from typing import Any

import gevent

from paceline.loadgen.access import AccessError
from paceline.loadgen.live import Live
from paceline.loadgen.live_tally import Tally
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.probe import Probe
from paceline.loadgen.session import Session

logger = logging.getLogger(__name__)

TICK_S = 1.0
KEY = "paceline"  # of our part of a worker's report
ALONE = "local"  # the source's name where there are no workers


def follow_session(environment: Environment, runner: Runner, session: Session) -> None:
    """In a process with users: count its seconds, and tell them to the master if there is one."""
    session.tally = Tally(time.perf_counter())
    runner.greenlet.spawn(_every, TICK_S, session.tick)
    if not isinstance(runner, WorkerRunner):
        return

    def on_report(data: dict[str, Any], **_kwargs: Any) -> None:
        session.tick()
        assert session.tally is not None
        data[KEY] = session.tally.drain(time.perf_counter())

    _listen(environment.events.report_to_master, on_report)


class LiveRun:
    """In the master or the only process: owns the live figures and feeds them."""

    def __init__(
        self,
        environment: Environment,
        runner: Runner,
        session: Session | None,
        options: Callable[[], LoadOptions],
    ) -> None:
        self.live = Live(time.perf_counter())
        self._environment = environment
        self._session = session
        self._options = options
        self._probe: Probe | None = None
        self._told = False
        _listen(environment.events.test_start, self._begin)
        _listen(environment.events.reset_stats, self._restart)
        _listen(environment.events.worker_report, self._take_report)
        _listen(environment.events.quitting, lambda **_kwargs: self._close())
        runner.greenlet.spawn(_every, TICK_S, self.look)

    def look(self) -> None:
        """Take in what this process's own users did, and ask the server."""
        now_s = time.perf_counter()
        if self._session is not None and self._session.tally is not None:
            self.live.take(ALONE, self._session.tally.drain(now_s), now_s)
        if self._probe is None:
            return
        try:
            sample = self._probe.load()
        except Exception as error:  # a run goes on without the server's own figures
            if not self._told:
                self._told = True
                logger.warning("the server does not tell its load: %s", error)
            return
        self.live.sample(sample, time.perf_counter())

    def finish(self) -> None:
        """Take in what the end of the run left behind, once this process's calls are cut."""
        if self._session is not None:
            self._session.tick()
        self.look()

    def _take_report(self, client_id: str, data: dict[str, Any], **_kwargs: Any) -> None:
        runner = self._environment.runner
        if isinstance(runner, MasterRunner) and client_id not in runner.clients:
            return  # another master's worker, left over from a run that died
        self.live.take(client_id, data.get(KEY, []), time.perf_counter())

    def _begin(self, **_kwargs: Any) -> None:
        options = self._options()
        target = options.address(self._environment.host)
        if self._probe is None or self._probe.target != target:
            self._close()
            self._probe = _probe(target, options)
        self._told = False
        self.live.begin(options.slo, time.perf_counter())

    def _restart(self, **_kwargs: Any) -> None:
        self.live.begin(self.live.slo, time.perf_counter())

    def _close(self) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None


def _probe(target: str, options: LoadOptions) -> Probe | None:
    """None where the server does not tell its load, or its token is missing: the session says that."""
    try:
        return Probe(target, options.access) if options.protocol == "grpc" else None
    except AccessError:
        return None


def _every(period_s: float, act: Callable[[], None]) -> None:
    """Call it at fixed times, so that the seconds stay seconds."""
    due_s = time.perf_counter()
    while True:
        due_s = max(due_s + period_s, time.perf_counter())
        gevent.sleep(due_s - time.perf_counter())
        act()


def _listen(hook: Any, listener: Callable[..., None]) -> None:
    hook.add_listener(listener)

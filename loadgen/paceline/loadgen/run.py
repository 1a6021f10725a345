"""Connects the load generator to Locust's events: options, sessions, the sweep."""

from __future__ import annotations

from locust.env import Environment
from locust.event import Events
from locust.exception import StopTest
from locust.runners import MasterRunner, Runner

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent

from paceline.loadgen.access import AccessError
from paceline.loadgen.options import LoadOptions, add_arguments
from paceline.loadgen.probe_stream import ProbeStream
from paceline.loadgen.session import Session
from paceline.loadgen.shape import PROGRESS_MESSAGE, STAGE_MESSAGE, LevelShape
from paceline.loadgen.stage import Progress, Stage
from paceline.loadgen.timing import PROBE_KIND
from paceline.loadgen.user import PacelineUser, prepare_process, report_call, use_fine_buckets
from paceline.loadgen.workload import WorkloadError

PROGRESS_S = 0.05


def register(events: Events) -> None:
    """Make Locust run `PacelineUser`: call it once, in the locustfile."""
    use_fine_buckets()
    _listen(events.init_command_line_parser, _on_parser)
    _listen(events.init, _on_init)


def _listen(hook: Any, listener: Callable[..., None]) -> None:
    hook.add_listener(listener)


def _on_parser(parser: argparse.ArgumentParser, **_kwargs: Any) -> None:
    add_arguments(parser)


def _on_init(environment: Environment, runner: Runner, **_kwargs: Any) -> None:
    options = _options(environment)
    if options.concurrency:
        _use_shape(environment, runner, options)
    if not isinstance(runner, MasterRunner):
        _use_session(environment, runner, options)


def _options(environment: Environment) -> LoadOptions:
    assert environment.parsed_options is not None, "Locust's command line was not parsed"
    return LoadOptions.from_namespace(environment.parsed_options)


def _use_shape(environment: Environment, runner: Runner, options: LoadOptions) -> None:
    shape = LevelShape(runner, options)
    environment.shape_class = shape
    _listen(environment.events.test_stop, lambda **_kwargs: shape.restart())

    def on_progress(msg: Any, **_kwargs: Any) -> None:
        shape.take_progress(msg.node_id, msg.data)

    runner.register_message(PROGRESS_MESSAGE, on_progress)


def _use_session(environment: Environment, runner: Runner, options: LoadOptions) -> None:
    """Give this process's users a session, kept in step with Locust's start, stop and quit."""
    prepare_process(max((_users(environment), *options.concurrency)))
    session = Session(_worker_index(runner))
    PacelineUser.session = session
    probes = ProbeStream(session, lambda call: report_call(environment, PROBE_KIND, call, {}))

    def on_test_start(**_kwargs: Any) -> None:
        _begin(environment, session)
        probes.start(session.options.probe)

    def on_spawning_complete(user_count: int, **_kwargs: Any) -> None:
        if not session.options.concurrency:
            session.enter(replace(session.stage, level=max(user_count, 1)))

    def on_stage(msg: Any, **_kwargs: Any) -> None:
        session.enter(Stage(**msg.data))

    runner.register_message(STAGE_MESSAGE, on_stage)
    _listen(environment.events.test_start, on_test_start)
    _listen(environment.events.spawning_complete, on_spawning_complete)
    _listen(environment.events.test_stop, lambda **_kwargs: probes.stop())
    _listen(environment.events.test_stop, lambda **_kwargs: session.flush())
    _listen(environment.events.quitting, lambda **_kwargs: session.close())
    if options.concurrency:
        runner.greenlet.spawn(_report_progress, runner, session)


def _begin(environment: Environment, session: Session) -> None:
    options = _options(environment)
    users = _users(environment)
    stage = Stage(level=users, open=True, warmup=options.warmup_requests(users))
    if options.concurrency:
        stage = Stage(level=options.concurrency[0])
    else:
        slots = _workers(environment)
        stage = replace(stage, slot=session.worker % slots, slots=slots)
    try:
        session.begin(options, environment.host or PacelineUser.host, stage)
    except (WorkloadError, AccessError, OSError) as error:
        raise StopTest(str(error)) from error


def _users(environment: Environment) -> int:
    return getattr(environment.parsed_options, "num_users", None) or 1


def _workers(environment: Environment) -> int:
    """How many processes send: forked ones, or those the master was told to expect."""
    counts = (getattr(environment.parsed_options, n, None) for n in ("processes", "expect_workers"))
    return max(1, *(count or 1 for count in counts))


def _worker_index(runner: Runner) -> int:
    return max(0, getattr(runner, "worker_index", 0))


def _report_progress(runner: Runner, session: Session) -> None:
    """Tell the shape how far this process is, whenever that changed, and once a second anyway."""
    told: Progress | None = None
    rounds = 0
    while True:
        progress = session.progress()
        rounds += 1
        if progress != told or rounds * PROGRESS_S >= 1.0:
            runner.send_message(PROGRESS_MESSAGE, progress.to_message())
            told, rounds = progress, 0
        gevent.sleep(PROGRESS_S)

"""Connects the load generator to Locust's events: options, sessions, the sweep."""

from __future__ import annotations

from locust.env import Environment
from locust.event import Events
from locust.exception import StopTest
from locust.runners import MasterRunner, Runner, WorkerRunner

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent

from paceline.loadgen.arrival_stream import ArrivalStream
from paceline.loadgen.arrivals import ArrivalError
from paceline.loadgen.level_schedules import schedules_of
from paceline.loadgen.open_loop import OpenLoop
from paceline.loadgen.options import LoadOptions, add_arguments
from paceline.loadgen.session import Session
from paceline.loadgen.shape import PROGRESS_MESSAGE, STAGE_MESSAGE, LevelShape
from paceline.loadgen.stage import Progress, Stage
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
    _check_arrivals(options)
    if options.concurrency:
        _use_shape(environment, runner, options)
    elif not isinstance(runner, WorkerRunner):
        _use_open_loop(environment, runner)
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


def _check_arrivals(options: LoadOptions) -> None:
    """Settings that do not fit together end the command with one line and code 2."""
    try:
        schedules_of(options)
    except ArrivalError as error:
        sys.stderr.write(f"locust: error: {error}\n")
        sys.exit(2)


def _use_open_loop(environment: Environment, runner: Runner) -> None:
    """Where a run has rates, go through them beside Locust's users, and end the run after the last."""
    loops: list[OpenLoop] = []
    run_time_s = _take_run_time(environment)

    def on_test_start(**_kwargs: Any) -> None:
        options = _options(environment)
        loops.clear()
        if options.open_rates:
            loops.append(OpenLoop(runner, options, run_time_s))
            # Not one of the runner's own greenlets: those are killed by the `quit` that it calls.
            gevent.spawn(_go_through, environment, runner, loops[0])

    def on_test_stop(**_kwargs: Any) -> None:
        for loop in loops:
            loop.stop()

    def on_progress(msg: Any, **_kwargs: Any) -> None:
        for loop in loops:
            loop.take_progress(msg.node_id, msg.data)

    runner.register_message(PROGRESS_MESSAGE, on_progress)
    _listen(environment.events.test_start, on_test_start)
    _listen(environment.events.test_stop, on_test_stop)


def _take_run_time(environment: Environment) -> float | None:
    """Without the web UI, `--run-time` is the time of sending: Locust itself would end the run before it drained."""
    parsed = environment.parsed_options
    if not _options(environment).open_rates or not getattr(parsed, "headless", False):
        return None
    run_time_s = getattr(parsed, "run_time", None)
    vars(parsed)["run_time"] = None
    return run_time_s


def _go_through(environment: Environment, runner: Runner, loop: OpenLoop) -> None:
    if not loop.run():
        return
    if getattr(environment.parsed_options, "headless", False):
        runner.quit()
    else:
        runner.stop()


def _use_session(environment: Environment, runner: Runner, options: LoadOptions) -> None:
    """Give this process's users a session, kept in step with Locust's start, stop and quit."""
    open_loop = options.max_outstanding if options.open_rates else 1
    prepare_process(max((_users(environment), open_loop, *options.concurrency)))
    session = Session(_worker_index(runner))
    PacelineUser.session = session

    def on_test_start(**_kwargs: Any) -> None:
        _begin(environment, session)

    def on_spawning_complete(user_count: int, **_kwargs: Any) -> None:
        if not session.options.concurrency and not session.options.open_rates:
            session.enter(replace(session.stage, level=max(user_count, 1)))

    arrivals = ArrivalStream(session, lambda name, call: report_call(environment, name, call, {}))

    def on_stage(msg: Any, **_kwargs: Any) -> None:
        session.enter(Stage(**msg.data))
        arrivals.enter(session.stage)

    runner.register_message(STAGE_MESSAGE, on_stage)
    _listen(environment.events.test_start, on_test_start)
    _listen(environment.events.spawning_complete, on_spawning_complete)
    _listen(environment.events.test_stop, lambda **_kwargs: arrivals.stop())
    _listen(environment.events.test_stop, lambda **_kwargs: session.flush())
    _listen(environment.events.quitting, lambda **_kwargs: session.close())
    runner.greenlet.spawn(_report_progress, runner, session)


def _begin(environment: Environment, session: Session) -> None:
    options = _options(environment)
    users = _users(environment)
    stage = Stage(level=users, open=True, warmup=options.warmup_requests(users))
    if options.open_rates:
        stage = Stage(rate=options.open_rates[0] or 1.0, index=-1)
    elif options.concurrency:
        stage = Stage(level=options.concurrency[0])
    else:
        slots = _workers(environment)
        stage = replace(stage, slot=session.worker % slots, slots=slots)
    try:
        session.begin(options, environment.host or PacelineUser.host, stage)
    except (WorkloadError, ArrivalError, OSError) as error:
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

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

from paceline.loadgen.access import AccessError
from paceline.loadgen.arrival_stream import ArrivalStream
from paceline.loadgen.arrivals import ArrivalError
from paceline.loadgen.level_schedules import schedules_of
from paceline.loadgen.live_run import LiveRun, follow_session
from paceline.loadgen.live_terminal import Levels, show_table
from paceline.loadgen.open_loop import OpenLoop
from paceline.loadgen.options import LoadOptions, add_arguments
from paceline.loadgen.probe_stream import ProbeStream
from paceline.loadgen.session import Session
from paceline.loadgen.shape import PROGRESS_MESSAGE, STAGE_MESSAGE, LevelShape
from paceline.loadgen.slo import SloError
from paceline.loadgen.stage import Progress, Stage
from paceline.loadgen.timing import PROBE_KIND
from paceline.loadgen.user import PacelineUser, prepare_process, report_call, use_fine_buckets
from paceline.loadgen.web import use_web
from paceline.loadgen.workload import WorkloadError

PROGRESS_S = 0.05


def register(events: Events) -> None:
    """Make Locust run `PacelineUser`: call it once, in the locustfile."""
    use_fine_buckets()
    _listen(events.init_command_line_parser, _on_parser)
    endings: list[Callable[[], None]] = []
    # Locust calls these in reverse order: the first added sees what every other left behind.
    _listen(events.quitting, lambda **_kwargs: _call(endings))
    _listen(events.init, lambda **kwargs: endings.extend(_on_init(**kwargs)))


def _listen(hook: Any, listener: Callable[..., None]) -> None:
    hook.add_listener(listener)


def _on_parser(parser: argparse.ArgumentParser, **_kwargs: Any) -> None:
    add_arguments(parser)
    # Who reaches the page can send load. Locust's own default lets in every machine of the network.
    parser.set_defaults(web_host="127.0.0.1")


def _on_init(environment: Environment, runner: Runner, **_kwargs: Any) -> list[Callable[[], None]]:
    """Connects everything; what is to be called at the very end."""
    options = _options(environment)
    _check_arrivals(options)
    levels = _use_levels(environment, runner, options)
    session: Session | None = None
    if isinstance(runner, MasterRunner):
        prepare_process(1)
        _listen(environment.events.test_start, lambda **_kwargs: _tell_users(environment))
    else:
        session = _use_session(environment, runner, options)
    return _use_live(environment, runner, session, levels)


def _use_levels(
    environment: Environment, runner: Runner, options: LoadOptions
) -> Callable[[], Levels | None]:
    """Let somebody go through the levels, in the master or the only process; who, while a run goes on."""
    if options.concurrency:
        shape = _use_shape(environment, runner, options)
        return lambda: shape
    if isinstance(runner, WorkerRunner):
        return lambda: None
    return _use_open_loop(environment, runner)


def _use_live(
    environment: Environment,
    runner: Runner,
    session: Session | None,
    levels: Callable[[], Levels | None],
) -> list[Callable[[], None]]:
    """Follow the run while somebody can look: not where only the summary was asked for."""
    parsed = environment.parsed_options
    if environment.web_ui is None and getattr(parsed, "only_summary", False):
        return []
    if session is not None:
        follow_session(environment, runner, session)
    if isinstance(runner, WorkerRunner):
        return []
    run = LiveRun(environment, runner, session, lambda: _options(environment))
    if environment.web_ui is not None:
        use_web(environment, environment.web_ui, run.live)
    elif getattr(parsed, "headless", False) and not getattr(parsed, "print_stats", False):
        return [run.finish, show_table(environment, runner, run.live, levels)]
    return []


def _options(environment: Environment) -> LoadOptions:
    assert environment.parsed_options is not None, "Locust's command line was not parsed"
    return LoadOptions.from_namespace(environment.parsed_options)


def _use_shape(environment: Environment, runner: Runner, options: LoadOptions) -> LevelShape:
    shape = LevelShape(runner, options)
    environment.shape_class = shape
    _listen(environment.events.test_stop, lambda **_kwargs: shape.restart())

    def on_progress(msg: Any, **_kwargs: Any) -> None:
        shape.take_progress(msg.node_id, msg.data)

    runner.register_message(PROGRESS_MESSAGE, on_progress)
    return shape


def _tell_users(environment: Environment) -> None:
    """Locust tells its workers their own shares only; settings that are not its own it sends to all of them."""
    vars(environment.parsed_options)["users_in_all"] = (
        getattr(environment.parsed_options, "num_users", None) or 1
    )


def _check_arrivals(options: LoadOptions) -> None:
    """Settings that do not fit together end the command with one line and code 2."""
    try:
        schedules_of(options)
    except ArrivalError as error:
        sys.stderr.write(f"locust: error: {error}\n")
        sys.exit(2)


def _use_open_loop(environment: Environment, runner: Runner) -> Callable[[], OpenLoop | None]:
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
    return lambda: loops[0] if loops else None


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


def _use_session(environment: Environment, runner: Runner, options: LoadOptions) -> Session:
    """Give this process's users a session, kept in step with Locust's start, stop and quit."""
    open_loop = options.max_outstanding if options.open_rates else 1
    prepare_process(max((_users(environment), open_loop, *options.concurrency)))
    session = Session(_worker_index(runner))
    PacelineUser.session = session
    probes = ProbeStream(session, lambda call: report_call(environment, PROBE_KIND, call, {}))

    def on_test_start(**_kwargs: Any) -> None:
        _begin(environment, session)
        probes.start(session.options.probe)

    def on_spawning_complete(user_count: int, **_kwargs: Any) -> None:
        if not session.options.concurrency and not session.options.open_rates:
            users = _users(environment) if isinstance(runner, WorkerRunner) else max(user_count, 1)
            session.enter(replace(session.stage, level=users))

    arrivals = ArrivalStream(session, lambda name, call: report_call(environment, name, call, {}))

    def on_stage(msg: Any, **_kwargs: Any) -> None:
        session.enter(Stage(**msg.data))
        arrivals.enter(session.stage)

    runner.register_message(STAGE_MESSAGE, on_stage)
    _listen(environment.events.test_start, on_test_start)
    _listen(environment.events.spawning_complete, on_spawning_complete)
    _listen(environment.events.test_stop, lambda **_kwargs: probes.stop())
    _listen(environment.events.test_stop, lambda **_kwargs: arrivals.stop())
    _listen(environment.events.test_stop, lambda **_kwargs: session.flush())
    _listen(environment.events.quitting, lambda **_kwargs: session.close())
    runner.greenlet.spawn(_report_progress, runner, session)
    return session


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
    except (WorkloadError, SloError, ArrivalError, AccessError, OSError) as error:
        raise StopTest(str(error)) from error


def _users(environment: Environment) -> int:
    """Of all processes together."""
    parsed = environment.parsed_options
    return getattr(parsed, "users_in_all", None) or getattr(parsed, "num_users", None) or 1


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


def _call(actions: list[Callable[[], None]]) -> None:
    for act in actions:
        act()

"""`paceline bench`: measures every batching mode and writes a report."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console

from paceline.loadgen.access import AccessError
from paceline.loadgen.batches import batch_table
from paceline.loadgen.bench import Bench
from paceline.loadgen.bench_options import BenchOptions, parse
from paceline.loadgen.bench_plan import Plan
from paceline.loadgen.http_probe import open_probe
from paceline.loadgen.open_plan import level_count, plan_for
from paceline.loadgen.probe import NotServing
from paceline.loadgen.progress import Progress
from paceline.loadgen.run_folder import RunFolder
from paceline.loadgen.servers import ServerFailed, prepare_model
from paceline.loadgen.tables import short_table
from paceline.loadgen.terminal import board

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: list[str]) -> int:
    """Runs the bench. 0: measured; 1: partly, by a failure; 2: nothing, the user must change something; 130: Ctrl-C."""
    try:
        options = parse(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    with _terminate_as_interrupt():
        try:
            if options.target:
                _check(options)
            elif code := prepare_model(options):  # before the clock of the budget starts
                return _unprepared(code)
            folder = RunFolder(options.out, _folder_name(options))
        except (NotServing, AccessError, OSError) as error:
            return _complain(str(error))
        except KeyboardInterrupt:
            return _complain("stopped by Ctrl-C", INTERRUPTED)
        return _run(options, folder)


def _folder_name(options: BenchOptions) -> str:
    """The work in one word that may be part of a path."""
    return "mix" if options.mix.mix else Path(options.workload).stem.replace(":", "-")


def _unprepared(code: int) -> int:
    """A child that exits with 2 has said why in one line."""
    if code != BAD_USAGE:
        _complain(f"the model could not be prepared (exit code {code})")
    return BAD_USAGE


def _check(options: BenchOptions) -> None:
    with open_probe(options) as probe:
        probe.check()
        probe.server()


def _run(options: BenchOptions, folder: RunFolder) -> int:
    console = Console()
    plan = plan_for(options)
    modes = 1 if options.target else len(options.modes)
    shown = board(console)
    progress = Progress(_expected_s(options, plan, modes), shown.show)
    bench = Bench(options, plan, folder, progress)
    code, reason = DONE, ""
    with shown:
        try:
            bench.measure()
        except KeyboardInterrupt:
            code, reason = INTERRUPTED, "stopped by Ctrl-C"
            bench.stop_early(reason)
        except (ServerFailed, NotServing) as error:
            code, reason = BAD_USAGE, str(error)
        if bench.measured:
            summary = bench.report()
    if not bench.measured:
        folder.discard()
        return _complain(reason or bench.data.run["partial_reason"] or "nothing was measured", code)
    if bench.data.run["partial"]:
        code = code or FAILED
        _complain(f"{bench.data.run['partial_reason']}; what was measured until then is kept")
    for note in bench.data.run["notes"]:
        _complain(note)
    table = batch_table(summary) if options.workload == "notebook" else short_table(summary)
    verdict = summary["verdicts"]
    _write(f"{table.markdown()}\n\n{verdict['headline']}\n\nReport: {folder.report}")
    return code


def _expected_s(options: BenchOptions, plan: Plan, modes: int) -> float:
    once_s = options.budget_s if options.open else plan.expected_s(modes, level_count(options))
    return options.repeat * once_s


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the bench as Ctrl-C does: children in order, what was measured kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _complain(line: str, code: int = BAD_USAGE) -> int:
    sys.stderr.write(f"paceline bench: {line}\n")
    return code or FAILED

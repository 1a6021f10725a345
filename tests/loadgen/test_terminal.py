from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from loadgen.test_live import record, sampled
from paceline.loadgen.live import Live
from paceline.loadgen.live_board import LineBoard, Status, TableBoard
from paceline.loadgen.progress import Cell, Progress
from paceline.loadgen.sweep import cell_of
from paceline.loadgen.terminal import PlainBoard, board, clock, line, render


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def printed(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def sweep() -> Progress:
    """Sequential is done, continuous runs its second level."""
    progress = Progress(expected_s=100.0)
    progress.plan("sequential", (1, 8))
    progress.plan("continuous", (1, 8))
    progress.set("sequential", 1, Cell("done", 0.02, 0.012, None, 61.0))
    progress.set("sequential", 8, Cell("done", 3.1, 0.012, None, 64.4))
    progress.set("continuous", 1, Cell("done", 0.02, 0.012, None, 62.0))
    progress.set("continuous", 8, Cell("open", 0.04, 0.020, 8, 398.2, 0.09, 2))
    return progress


def test_the_live_table_shows_the_running_mode_level_by_level() -> None:
    """Phase, in flight, tokens/s and latencies; a finished mode is one line with its best level."""
    screen = console(terminal=True)
    screen.print(render(sweep()))
    text = " ".join(printed(screen).replace("\u00a0", " ").split())
    assert "8 steady 8 398 40 ms 90 ms 20 ms 2" in text
    assert "Continuous batching 1 done – 62 20 ms – 12 ms –" in text
    assert "Sequential 8 done, best 64 3.1 s – 12 ms –" in text
    assert "left of 1:40" in text


def test_without_a_terminal_there_is_one_line_per_event() -> None:
    """Told once each, however often the table changes."""
    screen = console(terminal=False)
    shown = board(screen)
    assert isinstance(shown, PlainBoard)
    progress = sweep()
    with shown:
        for _ in range(3):
            shown.show(progress)
        progress.say("writing the report")
        shown.show(progress)
    lines = printed(screen).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("Sequential, 1 at once: 61 tok/s")
    assert lines[3].startswith("writing the report (1:")


def test_a_level_with_a_schedule_shows_how_late_it_sent() -> None:
    """The column is there as soon as one level has it, and in the plain line too."""
    progress = sweep()
    progress.set("continuous", 8, Cell("done", 0.04, 0.02, None, 398.2, 0.09, 0, 0.0015))
    screen = console(terminal=True)
    screen.print(render(progress))

    assert "Delay" in printed(screen) and "1.5 ms" in printed(screen).replace("\u00a0", " ")
    assert line(("continuous", 8), progress.cells["continuous", 8]).endswith("p99 1.5\u00a0ms")


def test_a_level_warms_up_before_it_is_steady() -> None:
    """Its phase follows its records; shed requests are counted, a p99 comes with the hundredth."""
    warm = [replace(record(at), phase="warmup") for at in range(4)]
    assert cell_of("ramp", []).state == "ramp"
    assert cell_of("open", warm).state == "warm-up"
    shed = record(0, status="RESOURCE_EXHAUSTED", stamps_us=[], tokens=[])
    cell = cell_of("open", [*warm, *(record(at, ttft_ms=at) for at in range(1, 101)), shed])
    assert (cell.state, cell.shed) == ("open", 1)
    assert cell.ttft_p99_s == 0.099  # the 103rd of 104
    assert cell_of("open", [record(at) for at in range(99)]).ttft_p99_s is None


def shown(board: TableBoard | LineBoard, live: Live, status: Status, now_s: float) -> None:
    board.start()
    board.show(live, status, now_s)
    board.stop()


def test_a_headless_run_has_a_table_of_levels() -> None:
    """The level that runs with its phase and what is in flight, the server and the time left below."""
    screen = console(terminal=True)
    shown(TableBoard(screen), sampled(), Status("steady", 65.0), 10.0)
    text = " ".join(printed(screen).replace("\u00a0", " ").split())
    assert "4 steady 4 101 " in text  # a second less a tenth: the first began with the run
    assert "server: 3 running, 1 waiting · cache 25 %" in text
    assert "0:10 so far · 1:05 left at most" in text


def test_a_headless_run_without_a_terminal_has_lines() -> None:
    """One about the running level every ten seconds, one when a level is done, each told once."""
    screen = console(terminal=False)
    live, lines = sampled(), LineBoard(screen)
    for now_s in (1.0, 9.9, 10.0, 10.5, 15.0):
        lines.show(live, Status("steady"), now_s)
    for now_s in (16.0, 20.0):
        lines.show(live, Status("done"), now_s)
    told = printed(screen).replace("\u00a0", " ").splitlines()
    assert len(told) == 2
    assert told[0].startswith("level 4: steady, 4 in flight, 101 tok/s, TTFT p50 ")
    assert told[1].startswith("level 4: done, 101 tok/s")
    assert "200 ok, 0 shed, 0 failed" in told[1]


def test_the_clock_reads_minutes_and_seconds() -> None:
    """65.9 seconds are 1:05."""
    assert clock(65.9) == "1:05"


def test_the_levels_of_an_open_loop_are_rates() -> None:
    """The column is called so from the start, and each level carries its unit."""
    progress = Progress(expected_s=100.0)
    progress.plan("continuous", (2.0, 4.0), "per second")
    progress.set("continuous", 2.0, Cell("open", 0.02, 0.012, 3, 61.0, unit="per second"))
    screen = console(terminal=True)
    screen.print(render(progress))
    text = " ".join(printed(screen).replace("\u00a0", " ").split())
    assert "System Rate Phase In flight" in text and "At once" not in text
    assert "Continuous batching 2/s steady 3" in text and "4/s waiting" in text

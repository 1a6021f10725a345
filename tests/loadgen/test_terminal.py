from __future__ import annotations

import io

from rich.console import Console

from paceline.loadgen.progress import Cell, Progress
from paceline.loadgen.terminal import PlainBoard, board, clock, render


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
    progress.set("continuous", 8, Cell("open", 0.04, 0.020, 8, 398.2))
    return progress


def test_the_live_table_shows_the_running_mode_level_by_level() -> None:
    """Phase, in flight, tokens/s and latencies; a finished mode is one line with its best level."""
    screen = console(terminal=True)
    screen.print(render(sweep()))
    text = " ".join(printed(screen).replace("\u00a0", " ").split())
    assert "8 measuring 8 398 40 ms 20 ms" in text
    assert "Continuous batching 1 done – 62 20 ms 12 ms" in text
    assert "Sequential 8 done, best 64 3.1 s 12 ms" in text
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


def test_the_clock_reads_minutes_and_seconds() -> None:
    """65.9 seconds are 1:05."""
    assert clock(65.9) == "1:05"

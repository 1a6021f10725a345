"""The live figures of a headless run in the terminal: a table drawn again and again, or plain lines. No Locust."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from paceline.loadgen.live import Level, Live
from paceline.loadgen.terminal import clock
from paceline.loadgen.wording import NONE, percent, rate, seconds

PLAIN_S = 10.0  # between two lines about a level that still runs


@dataclass(frozen=True, slots=True)
class Status:
    """What the figures do not say: the phase of the level that runs, and how long the run will still take at most."""

    phase: str  # ramp, warm-up, steady, drain, done
    left_s: float | None = None


class TableBoard:
    """A table on a terminal. Log lines go above it while `screen` is started."""

    def __init__(self, console: Console) -> None:
        self.screen = Screen(console=console, auto_refresh=False, transient=False)

    def start(self) -> None:
        self.screen.start()

    def show(self, live: Live, status: Status, now_s: float) -> None:
        self.screen.update(render(live, status, now_s), refresh=True)

    def stop(self) -> None:
        self.screen.stop()


class LineBoard:
    """A line when a level is done, and one every ten seconds about the one that runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done: set[str] = set()
        self._next_s = PLAIN_S
        self._began_s: float | None = None

    def start(self) -> None:
        return None

    def show(self, live: Live, status: Status, now_s: float) -> None:
        if live.began_s != self._began_s:
            self._done, self._began_s, self._next_s = set(), live.began_s, live.began_s + PLAIN_S
        for name, level in live.levels.items():
            over = name != live.level or status.phase == "done"
            if over and name not in self._done:
                self._done.add(name)
                self._write(line(level, "done", None))
        if now_s >= self._next_s and status.phase != "done":
            self._next_s = now_s + PLAIN_S
            level = live.levels.get(live.level) or Level(live.level)
            self._write(line(level, status.phase, live.in_flight(now_s), status.left_s))

    def stop(self) -> None:
        return None

    def _write(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


Board = TableBoard | LineBoard


def board(console: Console) -> Board:
    """The one that fits the console."""
    return TableBoard(console) if console.is_terminal else LineBoard(console)


def line(level: Level, phase: str, in_flight: int | None, left_s: float | None = None) -> str:
    """A level in one line, with what is known of it."""
    figures, counts = level.figures, level.figures.counts
    ttft, tpot = figures.latencies["ttft"], figures.latencies["tpot"]
    parts = [f"level {level.name}: {phase}", f"{rate(level.tok_s)} tok/s"]
    if in_flight is not None:
        parts.insert(1, f"{in_flight} in flight")
    parts.append(f"TTFT p50 {seconds(ttft.quantile(0.5))}, p99 {seconds(ttft.quantile(0.99))}")
    parts.append(f"TPOT p50 {seconds(tpot.quantile(0.5))}")
    if figures.latencies["delay"].count:
        parts.append(f"send delay p99 {seconds(figures.latencies['delay'].quantile(0.99))}")
    parts.append(f"{counts['ok']} ok, {counts['shed']} shed, {counts['failed']} failed")
    if figures.attainment is not None:
        parts.append(f"{percent(figures.attainment)} within SLO")
    if left_s is not None:
        parts.append(f"{clock(left_s)} left")
    return ", ".join(parts)


HEADINGS = (
    *("Level", "Phase", "In flight", "tok/s", "TTFT p50", "TTFT p99", "TPOT p50"),
    *("Shed", "Failed"),
)
DELAY = "Send delay p99"  # only where a level has a schedule


def render(live: Live, status: Status, now_s: float) -> Group:
    """All levels so far, the one that runs with its phase; below it the server and the time left."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    delays = any(level.figures.latencies["delay"].count for level in live.levels.values())
    for heading in (*HEADINGS, DELAY) if delays else HEADINGS:
        table.add_column(heading, justify="left" if heading == "Phase" else "right")
    for name, level in live.levels.items():
        running = name == live.level and status.phase != "done"
        flying = str(live.in_flight(now_s)) if running else NONE
        phase = status.phase if running else "done"
        cells = _cells(level, phase, flying)
        table.add_row(
            *(cells if delays else cells[: len(HEADINGS)]), style="" if running else "dim"
        )
    return Group(table, Text(_foot(live, status, now_s), style="dim"))


def _cells(level: Level, phase: str, flying: str) -> tuple[str, ...]:
    figures = level.figures
    ttft, tpot = figures.latencies["ttft"], figures.latencies["tpot"]
    return (
        level.name,
        phase,
        flying,
        rate(level.tok_s),
        seconds(ttft.quantile(0.5)),
        seconds(ttft.quantile(0.99)),
        seconds(tpot.quantile(0.5)),
        str(figures.counts["shed"]),
        str(figures.counts["failed"]),
        seconds(figures.latencies["delay"].quantile(0.99)),
    )


def _foot(live: Live, status: Status, now_s: float) -> str:
    parts = []
    if server := live.server():
        parts.append(f"server: {server['running']} running, {server['waiting']} waiting")
        if server["kv"] is not None:
            parts.append(f"cache {percent(server['kv'])}")
    parts.append(f"{clock(now_s - live.began_s)} so far")
    if status.left_s is not None:
        parts.append(f"{clock(status.left_s)} left at most")
    return "  " + " · ".join(parts)

"""The bench in the terminal: a live table where there is a terminal, one line per event where there is none."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from paceline.loadgen.progress import PER_SECOND, Cell, Progress
from paceline.loadgen.systems import system
from paceline.loadgen.wording import NONE, rate, seconds

STATES = {
    "waiting": "waiting",
    "ramp": "ramp",
    "warm-up": "warm-up",
    "open": "steady",
    "drain": "drain",
    "cutting": "drain",
    "done": "done",
}
COLOURS = {
    "sequential": "bright_black",
    "static": "yellow",
    "dynamic": "magenta",
    "continuous": "bright_blue",
    "transformers": "white",
    "transformers-batched": "green",
}
RUNNING = ("ramp", "warm-up", "open", "drain", "cutting")
HEADINGS = (
    *("System", "At once", "Phase", "In flight", "tok/s", "TTFT p50", "p99", "TPOT p50"),
    "Shed",
)
DELAY = "Delay"  # only where a level has a schedule


class Board(Protocol):
    """Shows progress between `__enter__` and `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, progress: Progress) -> None:
        """The progress has changed."""


def board(console: Console) -> Board:
    """The board that fits the console."""
    return LiveBoard(console) if console.is_terminal else PlainBoard(console)


class LiveBoard:
    """A table that is drawn again as figures come in; it stays below the shell's prompt when it is done."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        self._live.update(render(progress))


class PlainBoard:
    """A line when a level is done, and for every message."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[tuple[str, float]] = set()
        self._message = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def show(self, progress: Progress) -> None:
        if progress.message != self._message:
            self._message = progress.message
            self._write(f"{self._message} ({clock(progress.left_s)} left)")
        for key, cell in progress.cells.items():
            if cell.state == "waiting":
                self._told.discard(key)  # planned again: another repeat
            if cell.state == "done" and key not in self._told:
                self._told.add(key)
                self._write(line(key, cell))

    def _write(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def line(key: tuple[str, float], cell: Cell) -> str:
    """One finished level in one line."""
    name, size = key
    text = f"{system(name).label}, {size:g} {cell.unit}: {rate(cell.tok_s)} tok/s"
    if cell.ttft_s is not None:
        text += f", TTFT {seconds(cell.ttft_s)}, TPOT {seconds(cell.tpot_s)}"
    if cell.shed:
        text += f", {cell.shed} shed"
    if cell.delay_p99_s is not None:
        text += f", send delay p99 {seconds(cell.delay_p99_s)}"
    return text


def clock(left_s: float) -> str:
    """Minutes and seconds: 3:05."""
    return f"{int(left_s) // 60}:{int(left_s) % 60:02d}"


def render(progress: Progress) -> Group:
    """The live table: the system that runs with all its levels, every other in one line."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    delays = any(cell.delay_p99_s is not None for cell in progress.cells.values())
    headings = ("System", "Rate", *HEADINGS[2:]) if progress.by_rate else HEADINGS
    for heading in (*headings, DELAY) if delays else headings:
        table.add_column(heading, justify="left" if heading in ("System", "Phase") else "right")
    current = _current(progress)
    for name in dict.fromkeys(key[0] for key in progress.cells):
        cells = {size: cell for (owner, size), cell in progress.cells.items() if owner == name}
        if name == current:
            for at, (size, cell) in enumerate(cells.items()):
                table.add_row(*_row(name if at == 0 else "", name, _size(size, cell), cell))
        else:
            table.add_row(*_folded(name, cells))
    foot = Text(
        f"{progress.message} · {clock(progress.left_s)} left of {clock(progress.expected_s)}"
    )
    return Group(Text("Paceline bench", style="bold"), table, foot)


def _current(progress: Progress) -> str | None:
    for (name, _), cell in progress.cells.items():
        if cell.state in RUNNING:
            return name
    return None


def _row(shown: str, name: str, size: str, cell: Cell) -> tuple[Text | str, ...]:
    style = "" if cell.state in RUNNING else "dim" if cell.state == "waiting" else ""
    values = (
        size,
        STATES[cell.state],
        NONE if cell.in_flight is None else str(cell.in_flight),
        *_figures(cell),
    )
    label = Text(system(shown).label if shown else "", style=COLOURS.get(name, ""))
    return label, *(Text(value, style=style) for value in values)


def _folded(name: str, cells: dict[float, Cell]) -> tuple[Text | str, ...]:
    done = {size: cell for size, cell in cells.items() if cell.state == "done"}
    best = max(done.items(), key=lambda item: item[1].tok_s or 0.0, default=None)
    label = Text(system(name).label, style=COLOURS.get(name, "") if done else "dim")
    if best is None:
        return label, "", Text("waiting", style="dim")
    size, cell = best
    ended = "done, best" if len(done) == len(cells) else "stopped"
    return label, _size(size, cell), ended, "", *_figures(cell)


def _size(size: float, cell: Cell) -> str:
    return f"{size:g}{'/s' if cell.unit == PER_SECOND else ''}"


def _figures(cell: Cell) -> tuple[str, ...]:
    """From `tok/s` on; the delay's column is last and may not be there."""
    shed = NONE if cell.shed is None else str(cell.shed)
    values = (rate(cell.tok_s), seconds(cell.ttft_s), seconds(cell.ttft_p99_s))
    delay = () if cell.delay_p99_s is None else (seconds(cell.delay_p99_s),)
    return *values, seconds(cell.tpot_s), shed, *delay

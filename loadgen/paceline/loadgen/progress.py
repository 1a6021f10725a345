"""How far a bench is: one cell per system and level. Written by the bench, read by the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

AT_ONCE, PER_SECOND = "at once", "per second"


@dataclass(slots=True)
class Cell:
    """One level's state and latest figures. Times are seconds; a closed loop has no delay."""

    state: str = "waiting"
    ttft_s: float | None = None
    tpot_s: float | None = None
    in_flight: int | None = None
    tok_s: float | None = None
    ttft_p99_s: float | None = None
    shed: int | None = None
    delay_p99_s: float | None = None
    unit: str = AT_ONCE  # what its level is counted in


@dataclass(slots=True)
class Progress:
    """The cells in the order in which they will run. `changed` is called after each change."""

    expected_s: float
    changed: Callable[[Progress], None] = lambda _progress: None
    cells: dict[tuple[str, float], Cell] = field(default_factory=dict)
    message: str = ""
    started_s: float = field(default_factory=time.perf_counter)

    def plan(self, system: str, sizes: tuple[float, ...], unit: str = AT_ONCE) -> None:
        """Announce what will run."""
        for size in sizes:
            self.cells[system, size] = Cell(unit=unit)

    @property
    def by_rate(self) -> bool:
        """Whether levels are rates."""
        return any(cell.unit == PER_SECOND for cell in self.cells.values())

    def set(self, system: str, size: float, cell: Cell) -> None:
        """A level's new state."""
        self.cells[system, size] = cell
        self.changed(self)

    def say(self, message: str) -> None:
        """What happens now, beside the levels."""
        self.message = message
        self.changed(self)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started_s

    @property
    def left_s(self) -> float:
        """Seconds to go, by the plan; never negative."""
        return max(0.0, self.expected_s - self.elapsed_s)

"""How a sweep moves from level to level. Pure: time comes in as an argument.

A level opens when all its users are there, sends until it has enough, closes, and drains: what is
in flight ends by itself, or is cut after `drain_s`. So no request ever spans two levels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from paceline.loadgen.options import LoadOptions


@dataclass(frozen=True, slots=True)
class Stage:
    """What a worker process is told: which level runs, whether users may send, which requests are its own."""

    index: int = 0  # place in the list of levels
    level: int = 1  # target concurrency
    open: bool = False
    cut: bool = False  # end what is in flight now
    slot: int = 0  # this worker sends requests slot, slot + slots, slot + 2 slots, …
    slots: int = 1
    warmup: int = 0  # requests with a smaller number are warm-up
    rate: float | None = (
        None  # requests a second of an open loop; None: the users keep a closed one
    )
    seconds: float = 0.0  # length of an open loop's schedule
    start_wall_s: float = (
        0.0  # `time.time()` of its first moment, which every machine's clock can tell
    )

    def to_message(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a worker process tells: of level `index`, how many it sent, measured to the end, and has in flight."""

    index: int = 0
    sent: int = 0
    ended: int = 0
    flying: int = 0
    open: bool = False  # its users may send: it has not heard of the close yet
    dropped: int = 0  # arrivals that were not sent
    late: int = 0  # sends later than LATE_S after their time

    def to_message(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class LevelClock:
    """Decides when a level has enough, from its workers' progress."""

    options: LoadOptions
    index: int
    level: int
    opened_s: float
    saved_s: float = 0.0  # what earlier levels left of their longest time
    closed_s: float | None = None
    _measuring_s: float | None = None
    _workers: dict[str, Progress] = field(default_factory=dict)

    def take(self, worker: str, progress: Progress, now_s: float) -> None:
        """A worker's report; one about another level is ignored."""
        if progress.index != self.index:
            return
        self._workers[worker] = progress
        sent = sum(p.sent for p in self._workers.values())
        if self._measuring_s is None and sent > self.options.warmup_requests(self.level):
            self._measuring_s = now_s

    @property
    def measuring(self) -> bool:
        """The warm-up's requests are all sent."""
        return self._measuring_s is not None

    @property
    def longest_s(self) -> float:
        """With what those before it did not need: a level with more in flight takes longer to fill and to end."""
        return self.options.level_max_s + self.saved_s

    def left_s(self) -> float:
        """Of its longest time, once it has closed; never negative."""
        spent_s = (self.closed_s or self.opened_s) - self.opened_s
        return max(0.0, self.longest_s - spent_s)

    def enough(self, now_s: float) -> bool:
        """Both minima are reached, or the longest time is over."""
        if now_s - self.opened_s >= self.longest_s:
            return True
        if self._measuring_s is None or now_s - self._measuring_s < self.options.level_min_s:
            return False
        return sum(p.ended for p in self._workers.values()) >= self.options.level_requests

    def close(self, now_s: float) -> None:
        """Sending is to stop; reports from before this moment say nothing about draining."""
        self.closed_s = now_s
        self._workers.clear()

    def drained(self, workers: int) -> bool:
        """Every worker has heard of the close, and none has anything in flight."""
        reports = self._workers.values()
        return len(reports) >= workers and not any(p.flying or p.open for p in reports)

    def overdue(self, now_s: float) -> bool:
        """Draining takes longer than allowed."""
        return self.closed_s is not None and now_s - self.closed_s >= self.options.drain_s

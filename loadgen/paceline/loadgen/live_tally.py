"""What one process has counted since it last told: one `Second` a tick. Pure: time comes in as an argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from paceline.loadgen.live_figures import Figures, level_name
from paceline.loadgen.slo import Slo
from paceline.loadgen.timing import PROBE_KIND, Record

KEPT = 30  # seconds that wait for a master which does not ask


@dataclass(slots=True)
class Second:
    """What happened between two ticks of one process, by level. Times are seconds."""

    end_s: float
    span_s: float
    in_flight: int
    level: str  # the one that sends now
    levels: dict[str, Figures] = field(default_factory=dict)

    @property
    def total(self) -> Figures:
        """All levels together: requests of a level may end after it."""
        whole = Figures()
        for figures in self.levels.values():
            whole.merge(figures)
        return whole

    def to_message(self, now_s: float) -> dict[str, Any]:
        """Plain values. Its end is told by its age, for another machine's clock is not this one's."""
        return {
            "age_s": now_s - self.end_s,
            "span_s": self.span_s,
            "in_flight": self.in_flight,
            "level": self.level,
            "levels": {name: figures.to_message() for name, figures in self.levels.items()},
        }

    @classmethod
    def from_message(cls, message: dict[str, Any], now_s: float) -> Second:
        """The inverse of `to_message` on the clock of who reads it."""
        levels = {name: Figures.from_message(told) for name, told in message["levels"].items()}
        return cls(
            end_s=now_s - message["age_s"],
            span_s=message["span_s"],
            in_flight=message["in_flight"],
            level=message["level"],
            levels=levels,
        )


class Tally:
    """Owns one process's counts. `take` as requests end, `tick` about once a second, `drain` to tell."""

    def __init__(self, now_s: float) -> None:
        self.slo: Slo | None = None
        self._levels: dict[str, Figures] = {}
        self._closed: list[Second] = []
        self._ticked_s = now_s
        self._tokens = 0
        self._level = ""

    def begin(self, slo: Slo | None, now_s: float) -> None:
        """A new run: what was counted and not told is forgotten."""
        self.slo = slo
        self._levels, self._closed = {}, []
        self._ticked_s, self._tokens, self._level = now_s, 0, ""

    def take(self, record: Record) -> None:
        """Count a request that ended, if it is part of the load."""
        if record.kind == PROBE_KIND:
            return
        name = level_name(record.level, record.rate)
        self._levels.setdefault(name, Figures()).take(record, self.slo)

    def tick(self, now_s: float, *, in_flight: int, tokens: int, level: str) -> None:
        """End a second. `tokens` are all that arrived since the run began; `level` is the one that sends."""
        if now_s <= self._ticked_s:
            return
        arrived, self._tokens = tokens - self._tokens, tokens
        self._levels.setdefault(self._level or level, Figures()).tokens += arrived
        span_s, self._ticked_s = now_s - self._ticked_s, now_s
        self._closed = [
            *self._closed[-KEPT:],
            Second(now_s, span_s, in_flight, level, self._levels),
        ]
        self._levels, self._level = {}, level

    def drain(self, now_s: float) -> list[dict[str, Any]]:
        """The seconds since the last `drain`, as messages."""
        told = [second.to_message(now_s) for second in self._closed]
        self._closed = []
        return told

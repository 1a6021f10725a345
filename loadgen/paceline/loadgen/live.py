"""The live figures of a run: the one owner of what all processes and the server told. Pure: time comes in.

It lives in the master, or in the only process. Numbers are merged from the processes' seconds; the server's
figures are its own GetLoad answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from paceline.loadgen.live_figures import Figures
from paceline.loadgen.live_tally import Second
from paceline.loadgen.series import Sample, mean_rows, padding_waste

RECENT_S = 10.0
HISTORY_S = 600
SILENT_S = 8.0  # a process that has told nothing for so long counts as gone; workers tell every three seconds


@dataclass(slots=True)
class Level:
    """One level's figures since it began. `first_s` to `last_s` is when its seconds were counted."""

    name: str
    figures: Figures = field(default_factory=Figures)
    first_s: float = 0.0
    last_s: float = 0.0

    @property
    def tok_s(self) -> float | None:
        """Output tokens a second, from its first second to its last."""
        elapsed = self.last_s - self.first_s
        return self.figures.tokens / elapsed if elapsed > 0 else None


@dataclass(slots=True)
class Slot:
    """One second of the run's own time: all processes' figures, and who had how much in flight at its end."""

    figures: Figures = field(default_factory=Figures)
    in_flight: dict[str, int] = field(default_factory=dict)
    sample: Sample | None = None


class Live:
    """`take` what processes tell, `sample` what the server says; everything else reads."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.began_s = now_s
        self.slo = ""
        self.levels: dict[str, Level] = {}
        self.level = ""  # the one that sends now
        self.samples: deque[Sample] = deque(maxlen=HISTORY_S)
        self._slots: dict[int, Slot] = {}
        self._last: dict[str, Second] = {}

    def begin(self, slo: str, now_s: float) -> None:
        """A new run, or statistics that were reset: begin with nothing."""
        self.began_s, self.slo = now_s, slo
        self.levels, self.level = {}, ""
        self.samples.clear()
        self._slots, self._last = {}, {}

    def take(self, source: str, messages: Iterable[dict[str, Any]], now_s: float) -> None:
        """A process's seconds (`Tally.drain`)."""
        for message in messages:
            second = Second.from_message(message, now_s)
            self._last[source] = second
            self.level = second.level or self.level
            slot = self._slot(second.end_s)
            slot.in_flight[source] = second.in_flight
            slot.figures.merge(second.total)
            for name, figures in second.levels.items():
                self._take_level(name, figures, second)

    def _take_level(self, name: str, figures: Figures, second: Second) -> None:
        if not figures.tokens and not figures.ended:
            return
        begin_s = second.end_s - second.span_s
        level = self.levels.setdefault(name, Level(name, first_s=begin_s))
        level.figures.merge(figures)
        level.first_s = min(level.first_s, begin_s)
        level.last_s = max(level.last_s, second.end_s)

    def sample(self, sample: Sample, now_s: float) -> None:
        """An answer of the server's GetLoad; `t` is set to when it came."""
        sample = sample | {"t": now_s}
        self.samples.append(sample)
        self._slot(now_s).sample = sample

    def _slot(self, time_s: float) -> Slot:
        place = max(0, int(time_s - self.began_s))
        if place not in self._slots:
            self._slots[place] = Slot()
            for old in [one for one in self._slots if one < place - HISTORY_S]:
                del self._slots[old]
        return self._slots[place]

    @property
    def slots(self) -> dict[int, Slot]:
        """The last ten minutes: figures of each second since `began_s` that anybody told of, in order."""
        return dict(sorted(self._slots.items()))

    def in_flight(self, now_s: float) -> int:
        """Requests in flight by the last word of every process that still tells."""
        alive = (one for one in self._last.values() if now_s - one.end_s <= SILENT_S)
        return sum(second.in_flight for second in alive)

    def recent(self) -> tuple[Figures, float]:
        """The last ten seconds that were told, and how long they are."""
        end = self._told_s()
        whole = Figures()
        for place, slot in self._slots.items():
            if end - RECENT_S <= place < end:
                whole.merge(slot.figures)
        return whole, min(RECENT_S, end)

    def tok_s(self) -> float | None:
        """Output tokens a second over the last ten seconds."""
        figures, span_s = self.recent()
        return figures.tokens / span_s if span_s else None

    def _told_s(self) -> float:
        """The end, since `began_s`, of the last second that every process which still tells has told."""
        ends = [second.end_s for second in self._last.values()]
        alive = [end for end in ends if max(ends) - end <= SILENT_S]
        return float(int(min(alive) - self.began_s) + 1) if alive else 0.0

    def server(self) -> dict[str, float | None]:
        """The server's last word and what it did over the last ten seconds; empty where it says nothing."""
        if not self.samples:
            return {}
        last = self.samples[-1]
        window = [one for one in self.samples if one["t"] >= last["t"] - RECENT_S]
        total = last["pages_total"]
        return {
            "running": last["running"],
            "waiting": last["waiting"],
            "rows": mean_rows(window),
            "kv": last["pages_used"] / total if total else None,
            "padding": padding_waste(window),
            "preemptions": last["preemptions"] - self.samples[0]["preemptions"],
        }

"""What a stretch of load came to, in numbers that add up over seconds, processes and levels. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from paceline.loadgen.histogram import Histogram
from paceline.loadgen.outcomes import outcome
from paceline.loadgen.slo import Slo
from paceline.loadgen.timing import Record

LATENCIES = ("ttft", "tpot", "itl", "e2e", "delay")
ENDS = ("ok", "shed", "failed", "missed_deadline", "cancelled_by_plan", "cut", "dropped")


@dataclass(slots=True)
class Figures:
    """Latencies of the requests that ended well, counts of all that ended, tokens of all that arrived.

    `counts` has how requests ended (`ENDS`; each in one of them), and of how many an SLO could be `judged` and was
    met (`good`). `tokens` counts tokens as they arrive, those of requests still in flight included.
    """

    latencies: dict[str, Histogram] = field(
        default_factory=lambda: {name: Histogram() for name in LATENCIES}
    )
    counts: Counter[str] = field(default_factory=Counter)
    tokens: int = 0

    def take(self, record: Record, slo: Slo | None) -> None:
        """Count a request that ended. Its tokens are counted elsewhere, when they arrive."""
        self.counts[outcome(record)] += 1
        met = slo.meets(record) if slo is not None else None
        if met is not None:
            self.counts["judged"] += 1
            self.counts["good"] += met
        if record.ok:
            self._take_latencies(record)
        if record.dispatch_delay_s is not None and not record.dropped:
            self.latencies["delay"].add(record.dispatch_delay_s)

    def _take_latencies(self, record: Record) -> None:
        named = {"ttft": record.ttft_s, "tpot": record.tpot_s, "e2e": record.e2e_s}
        for name, value in named.items():
            if value is not None:
                self.latencies[name].add(value)
        gaps = self.latencies["itl"]
        for micros, count in zip(record.stamps_us[1:], record.tokens[1:], strict=True):
            gaps.add(micros / 1e6 / count, count)

    def merge(self, other: Figures) -> None:
        """Add another's numbers."""
        for name, histogram in other.latencies.items():
            self.latencies[name].merge(histogram)
        self.counts.update(other.counts)
        self.tokens += other.tokens

    @property
    def ended(self) -> int:
        """Requests that came to any end."""
        return sum(self.counts[end] for end in ENDS)

    @property
    def attainment(self) -> float | None:
        """Share of the judged requests, shed and failed among them, that met the SLO."""
        judged = self.counts["judged"]
        return self.counts["good"] / judged if judged else None

    def to_message(self) -> dict[str, Any]:
        """Plain values, only those that are not zero."""
        latencies = {n: h.to_message() for n, h in self.latencies.items() if h.buckets}
        counts = {name: count for name, count in self.counts.items() if count}
        return {"latencies": latencies, "counts": counts, "tokens": self.tokens}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Figures:
        """The inverse of `to_message`."""
        figures = cls(counts=Counter(message["counts"]), tokens=message["tokens"])
        for name, numbers in message["latencies"].items():
            figures.latencies[name] = Histogram.from_message(numbers)
        return figures


def level_name(level: int, rate: float | None) -> str:
    """A level as tables name it: `8` requests at once, or `2.5/s` sent."""
    return str(level) if rate is None else f"{rate:g}/s"

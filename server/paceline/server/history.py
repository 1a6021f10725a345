"""The last minutes of the server, as the dashboard draws them. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .glimpse import KEPT, Bins, Ended, Glimpse, merge, percentiles
from .request import Load

SHARES = (0.5, 0.95, 0.99)
_RECENT = 60  # samples that "recent" percentiles are of
_SMOOTH = 5  # samples that a point's latencies are of: few requests make few first tokens


@dataclass(frozen=True, slots=True)
class Point:
    """What went on between two samples; `time_s` is the later one's.

    Latencies are in seconds and of the last five samples; None: there were none.
    """

    time_s: float
    running: int
    waiting: int
    tokens_per_s: float  # generated
    batch_rows: float  # mean over the steps
    padding_waste: float  # 1 - real / padded tokens
    pages: float = 0.0  # share in use
    preemptions: int = 0
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    itl_p50: float | None = None
    itl_p95: float | None = None


@dataclass(frozen=True, slots=True)
class Recent:
    """Percentiles 50, 95 and 99 over the last minute, in seconds."""

    ttft: tuple[float | None, ...]
    itl: tuple[float | None, ...]


class History:
    """Keeps the newest `size` samples and the requests that ended last. One thread adds, any thread reads."""

    def __init__(self, size: int = 181) -> None:
        self._latest: Load | None = None
        self._points: deque[Point] = deque(maxlen=size - 1)
        self._glimpses: deque[Glimpse] = deque(maxlen=_RECENT)
        self._ended: deque[Ended] = deque(maxlen=KEPT)

    def add(self, load: Load, glimpse: Glimpse | None = None) -> None:
        """A sample, and what was observed since the last one."""
        seen = glimpse or Glimpse()
        self._glimpses.append(seen)
        if self._latest is not None and load.time_s > self._latest.time_s:
            self._points.append(_point(self._latest, load, self._latencies(_SMOOTH)))
        self._latest = load
        self._ended.extend(seen.ended)

    def points(self) -> list[Point]:
        """One point for each pair of neighbouring samples, oldest first."""
        return list(self._points.copy())

    def recent(self) -> Recent:
        """How long tokens took lately."""
        ttft, itl = self._latencies(_RECENT)
        return Recent(percentiles(ttft, SHARES), percentiles(itl, SHARES))

    def ended(self) -> list[Ended]:
        """The requests that ended last, the newest first."""
        return list(self._ended.copy())[::-1]

    def _latencies(self, samples: int) -> tuple[Bins, Bins]:
        """Times to first tokens and between tokens, of the newest samples."""
        ttft: Bins = {}
        itl: Bins = {}
        for glimpse in list(self._glimpses.copy())[-samples:]:
            merge(ttft, glimpse.ttft)
            merge(itl, glimpse.itl)
        return ttft, itl


def _point(earlier: Load, later: Load, latencies: tuple[Bins, Bins]) -> Point:
    # An engine that was started again counts from zero.
    seconds = later.time_s - earlier.time_s
    steps = max(0, later.steps - earlier.steps)
    padded = max(0, later.padded_tokens - earlier.padded_tokens)
    real = later.real_tokens - earlier.real_tokens
    tokens = max(0, later.output_tokens - earlier.output_tokens)
    (ttft_p50, ttft_p95), (itl_p50, itl_p95) = (
        percentiles(bins, (SHARES[0], SHARES[1])) for bins in latencies
    )
    return Point(
        time_s=later.time_s,
        running=later.running,
        waiting=later.waiting,
        tokens_per_s=tokens / seconds,
        batch_rows=(later.row_steps - earlier.row_steps) / steps if steps else 0.0,
        padding_waste=1 - real / padded if padded else 0.0,
        pages=later.pages_used / later.pages_total if later.pages_total else 0.0,
        preemptions=max(0, later.preemptions - earlier.preemptions),
        ttft_p50=ttft_p50,
        ttft_p95=ttft_p95,
        itl_p50=itl_p50,
        itl_p95=itl_p95,
    )

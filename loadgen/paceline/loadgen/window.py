"""What happened in a span of time: requests in flight, tokens arrived, the steady span."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from paceline.loadgen.distribution import Floats, bootstrap_ci95
from paceline.loadgen.saturation import evenly, in_flight_slope, over_saturated
from paceline.loadgen.timing import Record

FULL = 0.9  # the window is where at least this share of the target is in flight
BRIDGE_S = 0.1  # a user's turn from one request to its next is no end of the window
THROUGHPUT_BINS = 20
LITTLE_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, seconds of `time.perf_counter()`."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def holds(self, moment: float) -> bool:
        """Whether the moment lies in the half-open span (start, end]."""
        return self.start_s < moment <= self.end_s


def in_flight_steps(records: Iterable[Record]) -> list[tuple[float, int]]:
    """(moment, requests in flight from then on), in order of time."""
    changes: Counter[float] = Counter()
    for record in records:
        changes[record.t_send] += 1
        changes[record.t_end] -= 1
    steps, flying = [], 0
    for moment in sorted(changes):
        flying += changes[moment]
        steps.append((moment, flying))
    return steps


def concurrency(records: Iterable[Record], window: Window) -> float:
    """Requests in flight, weighted by time, over the window."""
    overlap = (
        min(record.t_end, window.end_s) - max(record.t_send, window.start_s) for record in records
    )
    return sum(span for span in overlap if span > 0) / window.seconds


def full_window(records: Sequence[Record], target: int, *, from_s: float) -> Window | None:
    """The longest span after `from_s` with >= 90 % of `target` in flight, dips < 0.1 s bridged."""
    need = math.ceil(FULL * target)
    spans: list[list[float]] = []
    start: float | None = None
    for moment, flying in in_flight_steps(records):
        if flying >= need and start is None:
            start = moment
        elif flying < need and start is not None:
            if spans and start - spans[-1][1] <= BRIDGE_S:
                spans[-1][1] = moment
            else:
                spans.append([start, moment])
            start = None
    clipped = [Window(max(begin, from_s), end) for begin, end in spans if end > from_s]
    return max(clipped, key=lambda window: window.seconds, default=None)


class Steady(NamedTuple):
    """Where the figures of a level were taken, and how that span was found."""

    verdict: str  # "steady", "below_target", "unstable", "warmup_only" or "empty"
    window: Window | None
    reason: str


def steady_window(records: Sequence[Record], target: int) -> Steady:
    """The window of a closed-loop level.

    It never begins before the first request after warm-up. Where the target was never in flight,
    it falls back to the span from the first to the last send after warm-up, then to the whole. A
    level too short for anything but warm-up has a rate, but no latencies.
    """
    if not records:
        return Steady("empty", None, "no request")
    last_end = max(record.t_end for record in records)
    sends = [record.t_send for record in records if record.measured]
    if not sends:
        whole = Window(min(record.t_send for record in records), last_end)
        return Steady("warmup_only", whole, "no request after warm-up: the whole level")
    window = full_window(records, target, from_s=min(sends))
    if window is not None and window.seconds > 0:
        return Steady("steady", window, f"longest span with {FULL:.0%} of the target in flight")
    reason = f"{FULL:.0%} of the target was never in flight after warm-up"
    if max(sends) > min(sends):
        span = Window(min(sends), max(sends))
        return Steady("below_target", span, f"{reason}: first to last send")
    return Steady("below_target", Window(min(sends), last_end), f"{reason}: first send to last end")


def token_arrivals(records: Iterable[Record]) -> tuple[Floats, Floats]:
    """(moment, tokens) of every message with tokens, whichever request it belongs to."""
    moments: list[float] = []
    counts: list[float] = []
    for record in records:
        moments += record.arrivals_s
        counts += record.tokens
    return np.asarray(moments, dtype=np.float64), np.asarray(counts, dtype=np.float64)


def throughput(records: Sequence[Record], window: Window, *, seed: int = 0) -> dict[str, Any]:
    """Rates in the window: tokens by arrival, prompts by first token, requests by end.

    The interval is a bootstrap over twenty equal parts of the window; `thirds_tok_s` lets a reader
    see whether the rate was still moving.
    """
    moments, counts = token_arrivals(records)
    span = (window.start_s, window.end_s)
    bins, _ = np.histogram(moments, THROUGHPUT_BINS, span, weights=counts)
    thirds, _ = np.histogram(moments, 3, span, weights=counts)
    prompts = sum(r.prompt_tokens for r in records if r.stamps_us and window.holds(r.arrivals_s[0]))
    ended = sum(1 for record in records if record.ok and window.holds(record.t_end))
    return {
        "output_tok_s": float(bins.sum()) / window.seconds,
        "output_tok_s_ci95": bootstrap_ci95(
            bins * THROUGHPUT_BINS / window.seconds, np.mean, seed=seed
        ),
        "input_tok_s": prompts / window.seconds,
        "req_s": ended / window.seconds,
        "window_s": window.seconds,
        "thirds_tok_s": [float(tokens) * 3 / window.seconds for tokens in thirds],
    }


def open_window(records: Sequence[Record]) -> Steady:
    """The window of an open-loop level: from the first to the last intended send after warm-up.

    It is not steady where arrivals outran the server (`saturation.over_saturated`).
    """
    if not records:
        return Steady("empty", None, "no request")
    due = [r.t_send if r.t_int is None else r.t_int for r in records if r.measured]
    if len(due) < 2 or max(due) <= min(due):
        whole = Window(min(r.t_send for r in records), max(r.t_end for r in records))
        return Steady("warmup_only", whole, "too few requests after warm-up: the whole level")
    window = Window(min(due), max(due))
    samples = evenly(in_flight_steps(records), window.start_s, window.end_s)
    rate = next((r.rate for r in records if r.rate), len(due) / window.seconds)
    if over_saturated(samples, rate):
        slope = in_flight_slope(samples)
        reason = f"requests in flight grew by {slope:.1f} a second: more came than ended"
        return Steady("unstable", window, reason)
    return Steady("steady", window, "first to last intended send after warm-up")


def littles_law(records: Sequence[Record], window: Window) -> dict[str, Any]:
    """Little's law: requests in flight against completions a second times their mean E2E.

    The two differ by the age of what is in flight at the edges, which a short window or a low level does not average
    out. The tolerance is 5 %, or twice the spread that such edges make by themselves, if that is more.
    """
    seen = concurrency(records, window)
    ended = [record.e2e_s for record in records if record.ok and window.holds(record.t_end)]
    expected = sum(ended) / window.seconds
    error = abs(expected - seen) / seen if seen else None
    tolerance = max(LITTLE_TOLERANCE, 2 * _edge_spread(ended, window))
    within = error is not None and error <= tolerance
    figures = {"in_flight": seen, "rate_times_e2e": expected, "error": error}
    return figures | {"tolerance": tolerance, "ok": within}


def _edge_spread(e2e_s: Sequence[float], window: Window) -> float:
    """Standard deviation of the ages at both edges, as a share of the requests' time in the window.

    Requests of one batch or queue age together, so more of them in flight are not counted on to average out. One met
    in flight at some moment is aged m2 / (2 m1) on average, with second moment m3 / (3 m1), where m1, m2 and m3 are the
    moments of E2E.
    """
    if not e2e_s:
        return 0.0
    times = np.asarray(e2e_s, dtype=np.float64)
    first, second, third = (float((times**power).mean()) for power in (1, 2, 3))
    variance = max(0.0, third / (3 * first) - (second / (2 * first)) ** 2)
    return math.sqrt(2 * variance) / window.seconds

"""The figures two runs are compared by, each with what it takes to say how sure it is. Pure, seeded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.loadgen.bounds import lower_bounds
from paceline.loadgen.compared_run import Part
from paceline.loadgen.distribution import Floats, percentile
from paceline.loadgen.slo import Slo
from paceline.loadgen.window import THROUGHPUT_BINS, token_arrivals

DRAWS = 1000
SUB_WINDOWS = 4


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. `better` is +1 where more is better, -1 where less is; `values` are what it is made of.

    `quantile` of the values is the figure; where it is None, their mean is.
    """

    key: str
    label: str
    better: int
    values: Callable[[Part], Floats]
    quantile: float | None = None

    def estimate(self, values: Floats) -> float | None:
        """The figure; None where too few values tell it, or where it is zero and has no ratio."""
        if not len(values):
            return None
        if self.quantile is None:
            found: float | None = float(values.mean())
        else:
            found = _middle(values) if self.quantile == 0.5 else percentile(values, self.quantile)
        return found if found is not None and found > 0 else None

    def draws(self, values: Floats, random: np.random.Generator) -> Floats:
        """Logarithms of the figure in a thousand bootstrap samples."""
        drawn = values[random.integers(0, len(values), (DRAWS, len(values)))]
        q = self.quantile
        made = drawn.mean(axis=1) if q is None else np.quantile(drawn, q, axis=1)
        return np.asarray(np.log(np.maximum(made, 1e-12)), dtype=np.float64)

    def sub_windows(self, values: Floats) -> list[float] | None:
        """Logarithms of the figure in quarters of the window; None where a quarter cannot tell it."""
        made = [self.estimate(part) for part in np.array_split(values, SUB_WINDOWS)]
        known = [math.log(value) for value in made if value is not None]
        return known if len(known) == SUB_WINDOWS else None


def _middle(values: Floats) -> float | None:
    return float(np.median(values)) if len(values) >= 5 else None


def measures(slo: Slo) -> tuple[Measure, ...]:
    """Throughput, TTFT and TPOT at p50 and p99, goodput under the SLO. TTFT is from schedule in an open loop."""

    def good(part: Part) -> Floats:
        kept = [record for record in part.chosen if slo.meets(record)]
        return _bins([r.t_send for r in kept], [1.0] * len(kept), part)

    return (
        Measure("output_tok_s", "Output tok/s", 1, _token_bins),
        Measure("ttft_ms_p50", "TTFT p50", -1, _ttft, 0.5),
        Measure("ttft_ms_p99", "TTFT p99", -1, _ttft, 0.99),
        Measure("tpot_ms_p50", "TPOT p50", -1, _tpot, 0.5),
        Measure("tpot_ms_p99", "TPOT p99", -1, _tpot, 0.99),
        Measure("goodput_req_s", "Goodput req/s", 1, good),
    )


def _token_bins(part: Part) -> Floats:
    moments, counts = token_arrivals(part.records)
    return _bins(moments, counts, part)


def _bins(
    moments: Sequence[float] | Floats, counts: Sequence[float] | Floats, part: Part
) -> Floats:
    """Rates in twenty equal parts of the window."""
    span = (part.window.start_s, part.window.end_s)
    made, _ = np.histogram(moments, THROUGHPUT_BINS, span, weights=counts)
    return np.asarray(made * THROUGHPUT_BINS / part.window.seconds, dtype=np.float64)


def _ttft(part: Part) -> Floats:
    """Milliseconds, in order of sending; none where too many were cut or late before their first token."""
    if "ttft_ms" in lower_bounds(part.chosen):
        return np.array([], dtype=np.float64)
    seen = [record for record in part.chosen if record.showed]
    values = [r.ttft_due_s for r in seen]
    return np.array([1e3 * value for value in values if value is not None], dtype=np.float64)


def _tpot(part: Part) -> Floats:
    values = [record.tpot_s for record in part.chosen if record.ok]
    return np.array([1e3 * value for value in values if value is not None], dtype=np.float64)

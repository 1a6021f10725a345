"""Exact percentiles and bootstrap intervals of a list of values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

QUANTILES = {
    "p10": 0.1,
    "p50": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p99.9": 0.999,
}
TAIL = 10  # a percentile is stated only if at least so many values lie beyond it
BOOTSTRAPS = 1000


def percentile(values: Sequence[float] | Floats, q: float) -> float | None:
    """The exact q-quantile, linear between neighbours; None where fewer than ten values lie beyond it."""
    if len(values) * min(q, 1.0 - q) < TAIL - 1e-9:
        return None
    return float(np.quantile(values, q))


def bootstrap_ci95(
    values: Sequence[float] | Floats, statistic: Callable[..., Any], *, seed: int = 0
) -> list[float] | None:
    """95 % percentile-bootstrap interval of a numpy-style statistic; None under five values."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 5:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(array), (BOOTSTRAPS, len(array)))
    low, high = np.quantile(statistic(array[drawn], axis=1), (0.025, 0.975))
    return [float(low), float(high)]


def distribution(
    values: Iterable[float | None], *, scale: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    """n, mean, sd, min, max, percentiles, and the median with its 95 % interval. Skips None.

    `p50` obeys the rule of `percentile`; `median` is always stated, and its interval says what it
    is worth.
    """
    array = np.asarray([value for value in values if value is not None], dtype=np.float64) * scale
    if not len(array):
        empty = dict.fromkeys(("mean", "sd", "min", "max", *QUANTILES, "median", "median_ci95"))
        return {"n": 0, **empty}
    return {
        "n": len(array),
        "mean": float(array.mean()),
        "sd": float(array.std(ddof=1)) if len(array) > 1 else None,
        "min": float(array.min()),
        "max": float(array.max()),
        **{name: percentile(array, q) for name, q in QUANTILES.items()},
        "median": float(np.median(array)),
        "median_ci95": bootstrap_ci95(_thinned(array), np.median, seed=seed),
    }


def _thinned(array: Floats, limit: int = 2000) -> Floats:
    """At most `limit` order statistics: pooled gaps are too many to draw from a thousand times."""
    if len(array) <= limit:
        return array
    places = np.linspace(0, len(array) - 1, limit).astype(np.intp)
    return np.asarray(np.sort(array)[places], dtype=np.float64)

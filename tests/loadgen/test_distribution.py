"""Percentiles and intervals."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from paceline.loadgen.distribution import QUANTILES, bootstrap_ci95, distribution, percentile


@pytest.mark.parametrize(("q", "least"), [(0.5, 20), (0.9, 100), (0.99, 1000), (0.999, 10_000)])
def test_percentile_needs_ten_values_above(q: float, least: int) -> None:
    """A percentile is stated from n(1-q) = 10 on, and not before."""
    assert percentile(list(range(least - 1)), q) is None
    assert percentile(list(range(least)), q) == pytest.approx(q * (least - 1))


def test_percentiles_are_exact() -> None:
    """Of the numbers 0 to 1000 every percentile is itself, whatever their order."""
    values = list(range(1001))
    random.Random(1).shuffle(values)
    found = distribution(values)
    for name, q in QUANTILES.items():
        expected = None if name == "p99.9" else pytest.approx(1000 * q)
        assert found[name] == expected
    assert (found["n"], found["min"], found["max"]) == (1001, 0, 1000)
    assert found["mean"] == found["median"] == 500
    assert found["sd"] == pytest.approx(statistics.stdev(values))


def test_scale_and_missing_values() -> None:
    """None is left out, and the scale turns seconds into milliseconds."""
    found = distribution([0.5, None, 1.5], scale=1e3)
    assert (found["n"], found["mean"], found["p50"], found["median"]) == (2, 1000, None, 1000)


def test_empty() -> None:
    """Nothing measured gives nothing stated, under the same keys."""
    found = distribution([None])
    assert found.pop("n") == 0
    assert set(found.values()) == {None}
    assert found.keys() | {"n"} == distribution([1.0]).keys()


def test_bootstrap_covers_the_truth() -> None:
    """About 95 of 100 intervals for the mean of a known distribution hold its true mean."""
    draws = np.random.default_rng(5).exponential(3.0, (100, 80))
    intervals = [bootstrap_ci95(values, np.mean, seed=i) for i, values in enumerate(draws)]
    held = sum(low <= 3.0 <= high for low, high in filter(None, intervals))
    assert 85 <= held <= 100


def test_bootstrap_is_seeded() -> None:
    """The same seed gives the same interval; fewer than five values give none."""
    values = [float(i * i % 17) for i in range(40)]
    assert bootstrap_ci95(values, np.median, seed=3) == bootstrap_ci95(values, np.median, seed=3)
    assert bootstrap_ci95(values[:4], np.median) is None

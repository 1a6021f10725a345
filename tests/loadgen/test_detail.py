"""The requests that a page holds."""

from __future__ import annotations

import random

import pytest

from loadgen.test_statistics import call
from paceline.loadgen.charts_of_requests import fitted
from paceline.loadgen.detail import MAX_REQUESTS, curve, detail

CUT: dict[str, object] = {"cut": True, "status": "CANCELLED", "server": None, "output_tokens": 0}


def test_few_requests_are_all_listed() -> None:
    """Columns in order of sending, a letter for how each ended."""
    records = [call(i) for i in range(5)]
    records[1] = call(1, status="UNAVAILABLE", stamps_us=[], tokens=[])
    records[2] = call(2, cancelled_by_plan=True, status="CANCELLED")
    records[3] = call(3, **CUT, stamps_us=[110_000], tokens=[1])
    found = detail(records, 4.0)
    assert (found["of"], found["every"], found["state"]) == (5, 1, "ofpco")
    assert found["ttft_ms"] == [110.0, None, 110.0, 110.0, 110.0]
    assert found["tpot_ms"] == [95.0, None, 95.0, None, 95.0]
    assert found["output_tokens"] == [10, 0, 10, 1, 10]
    assert found["curves"]["e2e_ms"]["n"] == 2


def test_many_requests_are_thinned_evenly_and_counted_whole() -> None:
    """One in three of a thousand, and the page can say so; curves are of all."""
    found = detail([call(i) for i in range(1000)], 60.0)
    assert (found["of"], found["every"]) == (1000, 3)
    assert len(found["state"]) == len(found["ttft_ms"]) == 334 <= MAX_REQUESTS
    assert found["curves"]["ttft_ms"]["n"] == 1000
    assert found["curves"]["itl_ms"]["n"] == 9000


def test_a_curve_holds_quantiles_and_bins() -> None:
    """The middle step is the median, and every value is in the bin whose edges hold it."""
    draw = random.Random(1)
    values = [draw.lognormvariate(-2, 1) for _ in range(2000)]
    found = curve(values)
    assert found["n"] == sum(found["counts"]) == 2000
    assert found["quantiles_ms"][30] == pytest.approx(1e3 * sorted(values)[1000], rel=0.01)
    assert found["quantiles_ms"] == sorted(found["quantiles_ms"])
    for place, count in enumerate(found["counts"], start=found["first"]):
        low, high = 10 ** (place / 12), 10 ** ((place + 1) / 12)
        assert count == sum(low <= 1e3 * value < high for value in values)
    assert curve([None])["n"] == 0


def test_the_fitted_line() -> None:
    """Half a second and twenty milliseconds a token are found again; equal lengths have no line."""
    dots = [(tokens, 500.0 + 20.0 * tokens) for tokens in (8, 16, 24, 48, 96)]
    assert fitted(dots) == pytest.approx((500.0, 20.0))
    assert fitted([(8, 1.0)] * 9) is None
    assert fitted(dots[:4]) is None

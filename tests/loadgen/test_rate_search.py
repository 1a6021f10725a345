"""The search for the highest rate under an SLO, against servers whose limit is known."""

from __future__ import annotations

import math

import pytest

from paceline.loadgen.rate_search import RateSearch


def search(limit: float, first: float, levels: int) -> RateSearch:
    """A server that meets its SLO up to `limit` requests a second."""
    found = RateSearch(first, levels)
    while (rate := found.next_rate()) is not None:
        found.tell(rate, rate <= limit)
    return found


def m_m_1_attainment(rate: float, capacity: float, limit_s: float) -> float:
    """Share of requests that an M/M/1 queue answers within `limit_s`."""
    return 0.0 if rate >= capacity else 1 - math.exp(-(capacity - rate) * limit_s)


@pytest.mark.parametrize("limit", [0.7, 3.0, 9.9, 10.0, 14.0, 55.0])
def test_it_comes_near_the_limit(limit: float) -> None:
    """From any beginning the answer meets the SLO and is within the search's width of the limit."""
    found = search(limit, first=10.0, levels=20)
    assert found.best is not None and found.best <= limit < found.best * 1.09
    assert found.bounded
    assert len(found.tried) <= 12


def test_a_queue_whose_limit_is_known() -> None:
    """99 % within 0.5 s of an M/M/1 queue with 20 a second: the limit is 20 - ln(100) / 0.5."""
    found = RateSearch(14.0, 12)
    while (rate := found.next_rate()) is not None:
        found.tell(rate, m_m_1_attainment(rate, 20.0, 0.5) >= 0.99)
    assert found.best == pytest.approx(20 - math.log(100) / 0.5, rel=0.08)


def test_the_number_of_levels_is_bounded() -> None:
    """It ends even where it is not near yet, with what it has."""
    found = search(1e9, first=1.0, levels=4)
    assert len(found.tried) == 4
    assert found.best == max(rate for rate, _ in found.tried)
    assert not found.bounded


def test_nothing_meets_it() -> None:
    """Then it goes down as long as it may, and has no answer."""
    found = search(0.0, first=8.0, levels=5)
    assert [rate for rate, _ in found.tried] == [8.0, 4.0, 2.0, 1.0, 0.5]
    assert found.best is None and not found.bounded


def test_luck_above_a_miss_does_not_count() -> None:
    """A rate that met the SLO above one that missed it is not the answer."""
    found = RateSearch(4.0, 9)
    found.tell(8.0, True)
    found.tell(4.0, False)
    found.tell(2.0, True)
    assert found.best == 2.0
    assert found.next_rate() == pytest.approx(math.sqrt(8.0), rel=0.01)

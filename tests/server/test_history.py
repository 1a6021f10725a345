"""The dashboard's history."""

from __future__ import annotations

import pytest

from paceline.server.glimpse import KEPT, Ended, Glimpse
from paceline.server.history import History, Point
from paceline.server.request import Load
from paceline.server.tally import Tally


def ended(request_id: str) -> Ended:
    return Ended(request_id, 0.0, "OK", "eos", 1, 1, 0, 0.0, 0.0, 0.0, 0.0, 1.0, 0)


def test_points_are_differences() -> None:
    """Rates and shares are those of the time between two samples, not since start."""
    history = History()
    history.add(Load(time_s=1.0, steps=10, real_tokens=100, padded_tokens=100, output_tokens=50))
    history.add(
        Load(
            time_s=3.0,
            running=2,
            waiting=1,
            steps=14,
            row_steps=10,
            real_tokens=130,
            padded_tokens=140,
            output_tokens=60,
        )
    )
    history.add(
        Load(
            time_s=4.0, steps=14, row_steps=10, real_tokens=130, padded_tokens=140, output_tokens=60
        )
    )
    assert history.points() == [
        Point(3.0, running=2, waiting=1, tokens_per_s=5.0, batch_rows=2.5, padding_waste=0.25),
        Point(4.0, running=0, waiting=0, tokens_per_s=0.0, batch_rows=0.0, padding_waste=0.0),
    ]


def test_old_samples_are_dropped() -> None:
    """Only the newest stay."""
    history = History(size=3)
    for second in range(10):
        history.add(Load(time_s=float(second)))
    assert [point.time_s for point in history.points()] == [8.0, 9.0]


def test_latencies_are_of_the_samples_around() -> None:
    """A point has percentiles of its last seconds, a minute has those of all, and both within a bin's width."""
    history = History()
    for second in range(8):
        glimpse = Glimpse()
        for _ in range(9):
            glimpse.between(0.020, 2)
        glimpse.between(1.5, 2)
        if not second:
            glimpse.first(0.3)
        history.add(Load(time_s=float(second)), glimpse)
    first, last = history.points()[0], history.points()[-1]
    assert first.ttft_p50 == pytest.approx(0.3, rel=0.06)
    assert last.ttft_p50 is None
    assert last.itl_p50 == pytest.approx(0.020, rel=0.06)
    assert last.itl_p95 == pytest.approx(1.5, rel=0.06)
    assert history.recent().ttft == pytest.approx((0.3, 0.3, 0.3), rel=0.06)


def test_tallies_of_processes_make_one_glimpse() -> None:
    """What a front end took is counted once in the supervisor's tally, the newest requests last."""
    theirs, ours = Tally(), Tally()
    theirs.made(4, 0.08)
    for number in range(2 * KEPT):
        theirs.request(ended(str(number)))
    ours.add(theirs.take())
    ours.add(theirs.take())
    glimpse = ours.glimpse.take()
    assert sum(glimpse.itl.values()) == 4
    assert [one.id for one in glimpse.ended] == [str(n) for n in range(KEPT, 2 * KEPT)]
    assert ours.glimpse == Glimpse()

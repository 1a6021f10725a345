"""The status page's history."""

from __future__ import annotations

from paceline.server.history import History, Point
from paceline.server.request import Load


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

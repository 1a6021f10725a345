from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paceline.loadgen.series import between, busy_share, mean_rows, padding_waste
from paceline.loadgen.timeline import lanes, level_spans, occupancy, token_rates, unserved
from paceline.loadgen.timing import Record, ServerTimings


def record(name: str, send: float, queue: float, last: float, level: int = 2) -> Record:
    """A request sent at `send`, begun after `queue`, with its only message at `last`."""
    server = ServerTimings(queue * 1e3, 0.0, 0.0, 0.0, 0.0, 1.0)
    return Record(
        id=name,
        mode="m",
        level=level,
        phase="measure",
        worker=0,
        t_send=send,
        t_end=last + 0.01,
        status="OK",
        stamps_us=[round((last - send) * 1e6)],
        tokens=[4],
        output_tokens=4,
        server=server,
    )


def sample(t: float, **values: Any) -> dict[str, Any]:
    """A load sample; what is not given is zero."""
    names = ("steps", "real_tokens", "padded_tokens", "row_steps", "step_s", "running", "waiting")
    pages = ("pages_used", "pages_total")
    lost = ("preemptions", "requests_rejected")
    zeros = dict.fromkeys((*names, *pages, *lost, "step_rows", "step_padded_rows"), 0)
    return {"t": t, "time_s": t} | zeros | values


def test_requests_are_laid_into_rows_without_overlap() -> None:
    """Two rows; a row that falls free is refilled first, a waiting request does not count as work."""
    records = [record("a", 0, 0, 10), record("b", 0, 0, 4), record("c", 0, 4, 10)]
    drawn = lanes({"m": records}, 2)["m"]
    assert drawn["seconds"] == pytest.approx(7.0)  # the middle 70 % of ten seconds
    assert drawn["filled"] == pytest.approx(1.0)
    bars = [[(left, right) for left, right, _ in row] for row in drawn["rows"]]
    assert sorted(bars) == [[(0.0, 2.5), (2.5, 7.0)], [(0.0, 7.0)]]


def test_idle_rows_lower_the_share() -> None:
    """One row at work of two: half filled."""
    records = [record("a", 0, 0, 5), record("b", 5, 0, 10)]
    drawn = lanes({"m": records}, 2)["m"]
    assert drawn["filled"] == pytest.approx(0.5)


def test_modes_show_spans_of_the_same_length() -> None:
    """The shortest level sets the length for all; a mode without finished requests is left out."""
    long, short = [record("a", 0, 0, 10)], [record("b", 50, 0, 54)]
    drawn = lanes({"long": long, "short": short, "none": []}, 2)
    assert {mode: one["seconds"] for mode, one in drawn.items()} == {"long": 2.8, "short": 2.8}


def test_levels_last_until_the_next_begins() -> None:
    """The last one until its last request ended."""
    records = [record("a", 1, 0, 3, 1), record("b", 5, 0, 9, 2), record("c", 4, 0, 6, 2)]
    assert level_spans(records) == [(1, 1, 4), (2, 4, pytest.approx(9.01))]


def test_tokens_count_where_they_arrive() -> None:
    """Four tokens in the second of two bins of one second."""
    middles, rates = token_rates([record("a", 0, 0, 1.5)], 0.0, 2.0, 2)
    assert (middles, rates) == ([0.5, 1.5], [0.0, 4.0])


def test_rows_count_only_while_steps_run() -> None:
    """A gauge that stands still between two samples is no work."""
    samples = [
        sample(1.0, steps=5, step_rows=3, step_padded_rows=4),
        sample(1.2, steps=9, step_rows=3, step_padded_rows=4),
        sample(1.4, steps=9, step_rows=3, step_padded_rows=4),
    ]
    line = occupancy(samples, [record("a", 0.9, 0, 2.0)])
    assert line is not None
    assert line["rows"] == [3, 3, 0]
    assert line["padded_rows"] == [4, 4, 0]


def test_counters_give_waste_rows_and_busy_share() -> None:
    """Differences between the first and the last sample of an interval, not the totals."""
    first = sample(10, steps=100, real_tokens=500, padded_tokens=1000, row_steps=200, step_s=3.0)
    last = sample(12, steps=110, real_tokens=590, padded_tokens=1120, row_steps=260, step_s=4.0)
    later = sample(20, steps=999)
    inside = between([first, last, later], 10, 12)
    assert padding_waste(inside) == pytest.approx(0.25)
    assert mean_rows(inside) == pytest.approx(6.0)
    assert busy_share(inside) == pytest.approx(0.5)
    assert padding_waste([first]) is None


def test_preemptions_and_refusals_lie_where_they_happened() -> None:
    """Counters become growth since the sample before, however high they stood when the mode began."""
    samples = [
        sample(1.0, preemptions=7, requests_rejected=2),
        sample(1.2, preemptions=9, requests_rejected=2),
        sample(1.4, preemptions=9, requests_rejected=5),
    ]
    line = occupancy(samples, [record("a", 0.9, 0, 2)])
    assert line is not None
    assert line["preempted"] == [0, 2, 0] and line["rejected"] == [0, 0, 3]


def test_requests_not_served_are_marked_at_their_end() -> None:
    """Failed, shed, late and dropped ones, in order; neither good ones nor those that the run itself cut."""
    plain = record("a", 0, 0, 2)
    records = [
        plain,
        replace(plain, t_end=4.0, status="RESOURCE_EXHAUSTED"),
        replace(plain, t_end=3.0, status="UNAVAILABLE"),
        replace(plain, t_end=5.0, status="DROPPED"),
        replace(plain, t_end=6.0, status="DEADLINE_EXCEEDED", deadline_s=1.0),
        replace(plain, t_end=7.0, status="CANCELLED", cut=True),
    ]
    found = unserved(records, 1.0)
    kinds = ["failed", "shed", "dropped", "missed_deadline"]
    assert found == {
        "of": 4,
        "every": 1,
        "marks": [[at, kind] for at, kind in zip((2.0, 3.0, 4.0, 5.0), kinds, strict=True)],
    }

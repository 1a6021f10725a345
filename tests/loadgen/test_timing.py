"""The times of one generation, against examples worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paceline.loadgen.timing import Record, ServerTimings


def record(**changes: Any) -> Record:
    """Sent at 100 s; 2 tokens at +0.5 s, 1 at +0.7 s, 3 at +1.3 s; status at +1.4 s."""
    values: dict[str, Any] = {
        "id": "a",
        "mode": "continuous",
        "level": 4,
        "phase": "measure",
        "worker": 0,
        "t_send": 100.0,
        "t_end": 101.4,
        "status": "OK",
        "stamps_us": [500_000, 200_000, 600_000],
        "tokens": [2, 1, 3],
    }
    return Record(**(values | changes))


def test_times_of_a_stream_with_several_tokens_a_message() -> None:
    """Each time follows its definition, gaps divided over the tokens they brought."""
    one = record(server=ServerTimings(100.0, 350.0, 790.0, 450.0, 1250.0, 3.5))
    assert one.ttft_s == pytest.approx(0.5)
    assert one.tpot_s == pytest.approx((1.3 - 0.5) / (6 - 2))
    assert one.itl_s == pytest.approx([0.2, 0.2, 0.2, 0.2])
    assert one.stall_s == pytest.approx(0.6)
    assert one.e2e_s == pytest.approx(1.4)
    assert one.normalised_s == pytest.approx(1.4 / 6)
    assert one.interactivity == pytest.approx(5.0)
    assert one.remainder_s == pytest.approx(0.05)
    assert one.arrivals_s == pytest.approx([100.5, 100.7, 101.3])
    assert one.counted_tokens == 6


def test_mean_of_itl_is_tpot() -> None:
    """Over one request the mean of its inter-token latencies is its time per output token."""
    one = record(stamps_us=[10, 7, 1000, 333, 90_001], tokens=[3, 5, 1, 2, 8])
    assert one.tpot_s is not None
    assert sum(one.itl_s) / len(one.itl_s) == pytest.approx(one.tpot_s)


def test_one_message_has_no_time_per_token() -> None:
    """Where all tokens came at once there is a TTFT, but nothing between tokens."""
    one = record(stamps_us=[500_000], tokens=[6])
    assert one.ttft_s == pytest.approx(0.5)
    assert one.tpot_s is None and one.interactivity is None and one.stall_s is None
    assert one.itl_s == []


def test_no_token_has_no_times() -> None:
    """A call that failed before its first token has a duration and nothing else."""
    one = record(stamps_us=[], tokens=[], status="UNAVAILABLE")
    assert one.ttft_s is None and one.tpot_s is None and one.normalised_s is None
    assert one.remainder_s is None and not one.ok
    assert one.e2e_s == pytest.approx(1.4)


def test_cut_is_not_ok() -> None:
    """A generation ended by the end of the run did not come to its own end."""
    assert record().ok
    assert not record(cut=True).ok


@pytest.mark.parametrize("server", [None, ServerTimings(1.0, 2.0, 3.0, 3.5, 7.0, 2.5)])
def test_json_round_trip(server: ServerTimings | None) -> None:
    """A record survives its JSON line, and keys of later versions are ignored."""
    one = record(server=server, gap=True, finish="EOS")
    line = json.loads(json.dumps(one.to_json())) | {"later": 1}
    assert Record.from_json(line) == one

"""The summary of a level."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from paceline.loadgen.statistics import group_levels, summarise_level
from paceline.loadgen.timing import Record, ServerTimings

SERVER = ServerTimings(10.0, 90.0, 800.0, 100.0, 900.0, 1.5)


def call(number: int, **changes: object) -> Record:
    """One of two users' calls of 1 s: ten tokens, the first after 0.11 s."""
    user, turn = number % 2, number // 2
    t_send = 10.0 + turn + user * 0.5
    one = Record(
        f"m-0-{number}",
        "m",
        2,
        "warmup" if turn == 0 else "measure",
        0,
        t_send,
        t_send + 1.0,
        "OK",
        stamps_us=[110_000] + [95_000] * 9,
        tokens=[1] * 10,
        prompt_tokens=20,
        requested_tokens=10,
        output_tokens=10,
        finish="MAX_TOKENS",
        server=SERVER,
    )
    return replace(one, **changes)  # type: ignore[arg-type]  # by keyword


def test_level_of_two_users() -> None:
    """A steady level: every figure as worked out by hand."""
    found = summarise_level([call(i) for i in range(60)], 2)
    assert found["target"] == {"kind": "concurrency", "value": 2}
    assert found["stable"]["verdict"] == "steady"
    assert found["achieved"]["concurrency"] == pytest.approx(2.0)
    assert found["achieved"]["littles_law"]["ok"]
    assert found["counts"]["sent"] == found["counts"]["ok"] == 60
    assert found["counts"]["warmup"] == 2
    assert found["throughput"]["output_tok_s"] == pytest.approx(20.0, rel=0.03)
    assert found["throughput"]["req_s"] == pytest.approx(2.0, rel=0.03)
    latency = found["latency"]
    assert latency["ttft_ms"]["median"] == pytest.approx(110.0)
    assert latency["tpot_ms"]["p50"] == pytest.approx(95.0)
    assert latency["itl_ms"]["n"] == 9 * latency["ttft_ms"]["n"]
    assert latency["e2e_ms"]["max"] == pytest.approx(1000.0)
    assert latency["norm_ms_per_tok"]["mean"] == pytest.approx(100.0)
    assert latency["interactivity_tok_s"]["mean"] == pytest.approx(1 / 0.095)
    assert latency["e2e_ms"]["p90"] is None  # 58 values are too few
    assert found["server"]["queue_ms"]["mean"] == 10.0
    assert found["server"]["remainder_ms"]["mean"] == pytest.approx(10.0)
    assert found["integrity"]["finish_reasons"] == {"MAX_TOKENS": 60}
    assert found["integrity"]["token_mismatch"] == found["integrity"]["length_mismatch"] == 0
    json.dumps(found, allow_nan=False)


def test_cut_requests_tell_what_they_can() -> None:
    """A request cut by the end of the level counts in TTFT, not in TPOT or E2E, and is no failure."""
    cut = {"cut": True, "status": "CANCELLED", "server": None, "output_tokens": 0, "finish": ""}
    records = [call(i) for i in range(40)]
    records[38] = call(38, **cut, stamps_us=[110_000, 95_000], tokens=[1, 1])
    records[39] = call(39, **cut, stamps_us=[], tokens=[])
    found = summarise_level(records, 2)
    assert found["counts"]["cut"] == 2 and found["counts"]["failed"] == 0
    assert found["counts"]["cut_before_first_token"] == 1
    assert found["latency"]["ttft_ms"]["n"] == found["latency"]["e2e_ms"]["n"] + 1
    assert found["integrity"]["token_mismatch"] == 0


def test_many_cut_requests_make_latencies_lower_bounds() -> None:
    """From over 10 % cut on E2E is a lower bound, and TTFT if they had no token yet; below it neither is."""
    cut = {"cut": True, "status": "CANCELLED", "server": None, "output_tokens": 0, "finish": ""}
    waiting: dict[str, object] = {"stamps_us": [], "tokens": []}
    reading: dict[str, object] = {"stamps_us": [110_000], "tokens": [1]}
    for state, count, expected in (
        (waiting, 3, []),
        (waiting, 8, ["ttft_ms", "e2e_ms", "norm_ms_per_tok"]),
        (reading, 8, ["e2e_ms", "norm_ms_per_tok"]),
    ):
        records = [call(i, **(cut | state if i >= 40 - count else {})) for i in range(40)]
        assert summarise_level(records, 2)["lower_bounds"] == expected


def test_failures_by_status() -> None:
    """Shed and failed requests are told apart and stay out of the latencies."""
    records = [call(i) for i in range(40)]
    nothing: dict[str, object] = {"stamps_us": [], "tokens": [], "server": None, "output_tokens": 0}
    records[10] = call(10, status="RESOURCE_EXHAUSTED", **nothing)
    records[11] = call(11, status="UNAVAILABLE", **nothing)
    counts = summarise_level(records, 2)["counts"]
    assert (counts["ok"], counts["shed"], counts["failed"]) == (38, 1, 1)
    assert counts["failed_by_status"] == {"UNAVAILABLE": 1}


def test_integrity_problems_are_counted() -> None:
    """Lost messages, miscounted tokens and unasked lengths show."""
    records = [call(i) for i in range(10)]
    records[5] = call(5, gap=True, output_tokens=11)
    integrity = summarise_level(records, 2)["integrity"]
    assert integrity["sequence_gaps"] == 1
    assert integrity["token_mismatch"] == integrity["length_mismatch"] == 1


def test_nothing_measured() -> None:
    """A level that never left its warm-up has a rate and no latencies; an empty one has neither."""
    short = summarise_level([call(0), call(1)], 2)
    assert short["stable"]["verdict"] == "warmup_only"
    assert short["throughput"]["output_tok_s"] == pytest.approx(20 / 1.5)
    empty = summarise_level([], 2)
    assert empty["stable"]["verdict"] == "empty"
    assert empty["throughput"] is None
    for found in (short, empty):
        assert found["latency"]["ttft_ms"]["n"] == 0
        json.dumps(found, allow_nan=False)


def test_levels_are_grouped_in_order() -> None:
    """Records come apart by level, levels in order of their first request."""
    records = [call(4, level=2), call(0, level=8), call(2, level=8)]
    assert {level: len(group) for level, group in group_levels(records).items()} == {8: 2, 2: 1}
    assert list(group_levels(records)) == [8, 2]

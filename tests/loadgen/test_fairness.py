"""Fairness by prompt length and kind."""

from __future__ import annotations

import pytest

from loadgen.test_statistics import call
from paceline.loadgen.fairness import fairness


def test_quartiles_of_prompt_length() -> None:
    """A TTFT that grows with the prompt shows as the ratio of the slowest quartile's median to the median of all."""
    records = [
        call(i, prompt_tokens=i + 1, stamps_us=[1000 * (i + 1), 10_000], tokens=[1, 1])
        for i in range(40)
    ]
    found = fairness(records)["by_prompt"]
    assert [part["group"] for part in found["groups"]] == ["1–10", "11–20", "21–30", "31–40"]
    assert [part["n"] for part in found["groups"]] == [10] * 4
    assert found["groups"][0]["ttft_ms"] == pytest.approx(5.5)
    assert found["ratio"]["ttft_ms"] == pytest.approx(35.5 / 20.5)
    assert found["ratio"]["tpot_ms"] == pytest.approx(1.0)


def test_equal_requests_are_not_parted() -> None:
    """One prompt length makes no quartiles, one kind no kinds, nothing nothing."""
    assert fairness([call(i) for i in range(20)]) == {"by_prompt": None, "by_kind": None}
    assert fairness([]) == {"by_prompt": None, "by_kind": None}


def test_a_kind_with_too_few_requests_has_no_median() -> None:
    """Four long requests beside thirty short ones are counted, not compared."""
    records = [call(i, kind="long" if i < 4 else "short") for i in range(34)]
    found = fairness(records)["by_kind"]
    assert [(part["group"], part["n"]) for part in found["groups"]] == [("long", 4), ("short", 30)]
    assert found["groups"][0]["ttft_ms"] is None
    assert found["ratio"]["ttft_ms"] is None


def test_the_ratio_is_taken_from_the_median_of_all_requests() -> None:
    """A few slow long requests count against what most requests saw, not against the fastest group."""
    records = [call(i, kind="short", stamps_us=[1000, 10_000], tokens=[1, 1]) for i in range(30)]
    records += [call(i, kind="fast", stamps_us=[500, 10_000], tokens=[1, 1]) for i in range(5)]
    records += [call(i, kind="long", stamps_us=[4000, 10_000], tokens=[1, 1]) for i in range(5)]
    found = fairness(records)["by_kind"]
    assert found["ratio"]["ttft_ms"] == pytest.approx(4.0)

"""What happened in a span of time, against brute force over random runs."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from paceline.loadgen.timing import Record
from paceline.loadgen.window import (
    Window,
    concurrency,
    full_window,
    in_flight_steps,
    littles_law,
    steady_window,
    throughput,
)


def call(t_send: float, t_end: float, *, phase: str = "measure", **more: object) -> Record:
    return Record(
        "r",
        "m",
        1,
        phase,
        0,
        t_send,
        t_end,
        "OK",
        **more,  # type: ignore[arg-type]  # by keyword
    )


def random_run(seed: int, users: int) -> list[Record]:
    """A closed loop of `users`, each with random calls one after another."""
    rng = random.Random(seed)
    records = []
    for _ in range(users):
        now = rng.random() * 0.3
        for number in range(rng.randrange(3, 9)):
            length = rng.uniform(0.2, 2.0)
            gaps = [round(length * 1e6 / 5)] * 4
            tokens = [rng.randrange(1, 4) for _ in gaps]
            phase = "measure" if number else "warmup"
            more = {"stamps_us": gaps, "tokens": tokens, "prompt_tokens": 7}
            records.append(call(now, now + length, phase=phase, **more))
            now += length + rng.choice((0.001, 0.02, 0.4))
    return records


def flying_at(records: list[Record], moment: float) -> int:
    return sum(r.t_send <= moment < r.t_end for r in records)


@pytest.mark.parametrize("seed", range(5))
def test_in_flight_matches_brute_force(seed: int) -> None:
    """At any moment the step function says how many calls were open."""
    records = random_run(seed, users=6)
    steps = in_flight_steps(records)
    for moment in (i * 0.0171 + 1e-4 for i in range(600)):
        said = next((n for at, n in reversed(steps) if at <= moment), 0)
        assert said == flying_at(records, moment)


@pytest.mark.parametrize("seed", range(5))
def test_concurrency_matches_brute_force(seed: int) -> None:
    """The time-weighted mean equals the mean over many sampled moments."""
    records = random_run(seed, users=6)
    window = Window(1.0, 3.0)
    moments = [1.0 + (i + 0.5) / 5000 * 2.0 for i in range(5000)]
    sampled = sum(flying_at(records, moment) for moment in moments) / len(moments)
    assert concurrency(records, window) == pytest.approx(sampled, abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_window_matches_brute_force(seed: int) -> None:
    """The window is the longest run of sampled moments at the target, short dips bridged."""
    records = random_run(seed, users=4)
    first = min(r.t_send for r in records if r.measured)
    step = 0.001
    count = round((max(r.t_end for r in records) - first) / step) + 1
    full = [flying_at(records, first + i * step) >= 4 for i in range(count)]
    best = longest_true(bridged(full, dip=round(0.1 / step)))
    window = full_window(records, 4, from_s=first)
    assert (window.seconds if window else 0.0) == pytest.approx(best * step, abs=0.003)


def bridged(samples: list[bool], dip: int) -> list[bool]:
    """The samples with runs of False of at most `dip` between True filled in."""
    filled, last = list(samples), None
    for i, sample in enumerate(samples):
        if sample:
            if last is not None and i - last - 1 <= dip:
                filled[last:i] = [True] * (i - last)
            last = i
    return filled


def longest_true(samples: list[bool]) -> int:
    best = run = 0
    for sample in samples:
        run = run + 1 if sample else 0
        best = max(best, run)
    return best


def test_throughput_counts_tokens_where_they_arrive() -> None:
    """Tokens of a call that straddles the window's edge count in part; prompts and ends likewise."""
    stamps = [1_000_000] * 5  # at 1, 2, 3, 4 and 5 s
    straddling = call(0.0, 5.5, stamps_us=stamps, tokens=[1, 2, 4, 8, 16], prompt_tokens=100)
    inside = call(2.4, 4.2, stamps_us=[1_000_000], tokens=[32], prompt_tokens=10)
    found = throughput([straddling, inside], Window(1.5, 4.5))
    assert found["output_tok_s"] == pytest.approx((2 + 4 + 8 + 32) / 3.0)
    assert found["input_tok_s"] == pytest.approx(10 / 3.0)
    assert found["req_s"] == pytest.approx(1 / 3.0)
    assert found["thirds_tok_s"] == pytest.approx([2, 4 + 32, 8])


def test_warmup_is_outside_the_window() -> None:
    """The window begins with the first request after warm-up, though the target was there before."""
    records = [call(0.0, 5.0, phase="warmup"), call(0.0, 1.0, phase="warmup"), call(1.0, 5.0)]
    verdict, window, _ = steady_window(records, 2)
    assert (verdict, window) == ("steady", Window(1.0, 5.0))


def test_fallback_is_stated() -> None:
    """Where the target was never in flight the window is the time of sending, and says so."""
    records = [call(0.0, 1.0), call(2.0, 3.0)]
    verdict, window, reason = steady_window(records, 10)
    assert (verdict, window) == ("below_target", Window(0.0, 2.0))
    assert "never in flight" in reason
    found = steady_window([call(0.0, 1.0, phase="warmup")], 1)
    assert (found.verdict, found.window) == ("warmup_only", Window(0.0, 1.0))
    assert steady_window([], 1).window is None


def test_littles_law_of_a_steady_loop() -> None:
    """Two users with calls of one second each: two in flight, two ends a second, one second each."""
    records = [call(i * 0.5, i * 0.5 + 1.0) for i in range(40)]
    found = littles_law(records, Window(2.0, 12.0))
    assert found["in_flight"] == pytest.approx(2.0)
    assert found["rate_times_e2e"] == pytest.approx(2.0)
    assert found["ok"]


def test_littles_law_forgives_edges_and_finds_what_is_lost() -> None:
    """One user with few long calls is within its tolerance; a tenth of the time in failed calls is not."""
    few = [call(i * 3.0, i * 3.0 + 3.0) for i in range(8)]
    found = littles_law(few, Window(0.0, 20.0))
    assert found["error"] == pytest.approx(2 / 20)
    assert found["tolerance"] > 0.05 and found["ok"]
    many = [call(i * 0.05, i * 0.05 + 1.0) for i in range(2000)]
    lost = [
        replace(one, status="UNAVAILABLE") if i % 10 == 0 else one for i, one in enumerate(many)
    ]
    found = littles_law(lost, Window(2.0, 92.0))
    assert found["tolerance"] == 0.05 and not found["ok"]

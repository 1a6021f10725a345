"""Patterns of arrivals against the distributions they are named after."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.loadgen.arrivals import ArrivalError, parse_arrival
from paceline.loadgen.schedule import digest_of_levels, make_schedule, schedule_digest

N = 4000
KS_1_PERCENT = 1.63  # of the Kolmogorov distribution, times 1 / sqrt(n)


def gaps(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def ks_statistic(values: Sequence[float], cdf: Callable[[float], float]) -> float:
    """The largest distance between the values' own distribution and `cdf`."""
    ordered = sorted(values)
    n = len(ordered)
    above = max((i + 1) / n - cdf(x) for i, x in enumerate(ordered))
    below = max(cdf(x) - i / n for i, x in enumerate(ordered))
    return max(above, below)


def two_sample_ks(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest distance between the distributions of two samples."""
    a, b = np.sort(first), np.sort(second)
    both = np.concatenate([a, b])
    at_a, at_b = np.searchsorted(a, both, "right"), np.searchsorted(b, both, "right")
    return float(np.abs(at_a / len(a) - at_b / len(b)).max())


@pytest.mark.parametrize("seed", range(5))
def test_poisson_gaps_are_exponential(seed: int) -> None:
    """A KS test at 1 % does not tell them from an exponential distribution, and does tell constant ones."""
    found = gaps(make_schedule("poisson", 40.0, N / 40, seed).times)
    limit = KS_1_PERCENT / math.sqrt(len(found))
    assert ks_statistic(found, lambda gap: 1 - math.exp(-40 * gap)) < limit
    even = gaps(make_schedule("gamma:3", 40.0, N / 40, seed).times)
    assert ks_statistic(even, lambda gap: 1 - math.exp(-40 * gap)) > limit


def numpy_gaps(shape: float) -> list[float]:
    """Gaps with a mean of 1/40 s by numpy's generator, between times of whole microseconds."""
    drawn = np.random.default_rng(11).gamma(shape, 1 / (40 * shape), N)
    return gaps([float(time) for time in np.cumsum(drawn).round(6)])


@pytest.mark.parametrize("shape", [0.25, 0.5, 2.0])
def test_gamma_gaps_are_gamma(shape: float) -> None:
    """A two-sample KS test at 1 % does not tell them from numpy's gamma, and does tell another shape."""
    found = gaps(make_schedule(f"gamma:{shape}", 40.0, N / 40, 3).times)
    limit = KS_1_PERCENT * math.sqrt(2 / N)
    assert two_sample_ks(found, numpy_gaps(shape)) < limit
    assert two_sample_ks(found, numpy_gaps(3 * shape)) > limit


def test_small_shapes_are_bursts() -> None:
    """The spread of the gaps over their mean is 1 / sqrt(shape)."""
    for shape in (0.25, 1.0, 4.0):
        found = np.asarray(gaps(make_schedule(f"gamma:{shape}", 40.0, N / 40, 1).times))
        assert found.std() / found.mean() == pytest.approx(1 / math.sqrt(shape), rel=0.1)


@given(
    arrival=st.sampled_from(["constant", "poisson", "gamma:0.3", "gamma:5"]),
    rate=st.floats(0.5, 200),
    seconds=st.floats(2, 60),
    seed=st.integers(0, 2**31),
)
def test_a_schedule_is_sorted_and_keeps_its_rate(
    arrival: str, rate: float, seconds: float, seed: int
) -> None:
    """Every level has just rate x seconds arrivals, ascending, within its time."""
    times = make_schedule(arrival, rate, seconds, seed).times
    assert abs(len(times) - max(1, rate * seconds)) <= 0.5 + 1e-6
    assert all(before <= after for before, after in pairwise(times))
    assert times[0] >= 0 and times[-1] <= seconds + 1e-6


def test_constant_arrivals() -> None:
    """Equal gaps from the start on."""
    assert make_schedule("constant", 4.0, 1.0, 9).times == (0.0, 0.25, 0.5, 0.75)


def test_a_ramp_rises_in_a_straight_line() -> None:
    """From 10 to 30 a second: each quarter has the arrivals of its mean rate; downhill it is the mirror."""
    up = make_schedule("ramp:10:30", None, 200.0, 0)
    assert up.rate == pytest.approx(20.0)
    quarters = np.histogram(up.times, 4, (0, 200))[0]
    for got, want in zip(quarters, (625, 875, 1125, 1375), strict=True):
        assert got == pytest.approx(want, rel=0.1)
    down = np.histogram(make_schedule("ramp:30:10", None, 200.0, 0).times, 4, (0, 200))[0]
    assert down[0] > down[1] > down[2] > down[3]


def test_steps_have_their_rates() -> None:
    """Each of three equal parts holds just its own rate's arrivals."""
    schedule = make_schedule("steps:5,20,10", None, 30.0, 2)
    assert list(np.histogram(schedule.times, 3, (0, 30))[0]) == [50, 200, 100]
    assert schedule.rate == pytest.approx(350 / 30, rel=1e-3)


def test_traces_of_seconds_and_of_objects(tmp_path: Path) -> None:
    """Times count from the first one, from plain numbers as from a field of JSON objects."""
    plain, objects = tmp_path / "plain.txt", tmp_path / "objects.jsonl"
    plain.write_text("# seconds\n100\n100.5\n\n102\n")
    objects.write_text("".join(json.dumps({"timestamp": t, "n": 1}) + "\n" for t in (7, 7.5, 9)))
    for path in (plain, objects):
        pattern = parse_arrival(f"trace:{path}")
        assert pattern.has_own_rate
        assert pattern.offsets(0, 60, random.Random(0)) == [0.0, 0.5, 2.0]
        assert pattern.offsets(0, 1, random.Random(0)) == [0.0, 0.5]
        assert pattern.own_seconds == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("poison", "'poison' are no arrivals: write constant, poisson"),
        ("poisson:3", "poisson takes no number"),
        ("gamma", "write gamma:SHAPE"),
        ("gamma:0", "every number must be above 0"),
        ("ramp:1", "write ramp:FROM:TO"),
        ("ramp:0:4", "every number must be above 0"),
        ("steps:1,x", "write steps:R1,R2"),
        ("steps:1,nan", "every number must be above 0"),
        ("trace:/nowhere/at/all", "No such file"),
    ],
)
def test_a_bad_pattern_is_said_in_one_line(text: str, says: str) -> None:
    """The error names what was written and what to write."""
    with pytest.raises(ArrivalError) as caught:
        parse_arrival(text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1\n3\n2\n", "line 3: 2 comes after 3"),
        ("\n", "no times in it"),
        ("1\nsoon\n", "line 2: no number of seconds"),
        ('{"when": 3}\n', "line 1: no number of seconds (no field of t, time"),
        ("inf\n", "line 1: "),
    ],
)
def test_a_bad_trace_names_its_line(content: str, says: str, tmp_path: Path) -> None:
    """Unsorted, empty and unreadable traces are refused."""
    path = tmp_path / "trace"
    path.write_text(content)
    with pytest.raises(ArrivalError, match=r"^trace ") as caught:
        parse_arrival(f"trace:{path}")
    assert says in str(caught.value)


def test_too_many_arrivals_are_refused() -> None:
    """A rate that no machine could send is said before the memory is full."""
    with pytest.raises(ArrivalError, match="more than 1,000,000"):
        make_schedule("constant", 1e6, 60.0, 0)


class TestSplit:
    @pytest.mark.parametrize("slots", [1, 3, 4])
    def test_the_shares_are_the_schedule(self, slots: int) -> None:
        """Each arrival is in just one share, so more processes send at the same rate, to within 1 %."""
        schedule = make_schedule("poisson", 50.0, 20.0, 5)
        shares = [list(schedule.share(slot, slots)) for slot in range(slots)]
        together = sorted(arrival for share in shares for arrival in share)
        assert together == list(enumerate(schedule.times))
        assert len(together) / schedule.seconds == pytest.approx(50.0, rel=0.01)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert all(number % slots == slot for slot, s in enumerate(shares) for number, _ in s)

    def test_warm_up_is_a_share_of_the_arrivals(self) -> None:
        """By default 15 % of them, and never all."""
        schedule = make_schedule("constant", 10.0, 10.0, 0)
        assert schedule.warmup(-1) == 15
        assert schedule.warmup(7) == 7
        assert schedule.warmup(1000) == 99


class TestDigest:
    def test_same_seed_same_schedule(self) -> None:
        """Drawn twice, byte for byte the same; another seed, rate or pattern gives another one."""
        digest = schedule_digest(make_schedule("poisson", 8.0, 10.0, 1).times)
        assert schedule_digest(make_schedule("poisson", 8.0, 10.0, 1).times) == digest
        others = [("poisson", 8.0, 2), ("poisson", 8.1, 1), ("gamma:0.5", 8.0, 1)]
        found = {schedule_digest(make_schedule(a, r, 10.0, s).times) for a, r, s in others}
        assert len(found | {digest}) == 4

    def test_the_digest_is_of_microseconds(self) -> None:
        """So that it is the same on every machine."""
        assert schedule_digest((0.0, 0.25)) == (
            "63f14deed39092da427c2fc7f93a23795708c34b9bf5062276f82196f9aef73a"
        )

    def test_levels_have_one_digest_together(self) -> None:
        """It depends on their order."""
        one, two = (make_schedule("poisson", rate, 5.0, 0) for rate in (2.0, 4.0))
        assert digest_of_levels([one, two]) != digest_of_levels([two, one])

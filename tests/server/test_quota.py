"""The limits of one caller: how much gets in, and that whoever waits as told gets in."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.server.errors import LimitReached
from paceline.server.quota import Allowance, Bucket, Quota

RATES = st.floats(0.01, 1000)
# Seconds since the last try, and how much is asked for.
TRIES = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 64)), min_size=1, max_size=60)


@given(rate=RATES, tries=TRIES)
def test_no_window_gets_more_than_its_share(rate: float, tries: list[tuple[float, int]]) -> None:
    """Over any time, what is taken is at most rate times time, and a second's worth or the largest request."""
    bucket, taken = Bucket(rate, 0.0), []
    for now, amount in zip(accumulate(gap for gap, _ in tries), (a for _, a in tries), strict=True):
        if bucket.take(amount, now) == 0:
            taken.append((now, amount))
    burst = max(bucket.size, *(amount for _, amount in tries))
    for first in range(len(taken)):
        total = 0
        for now, amount in taken[first:]:
            total += amount
            assert total <= burst + rate * (now - taken[first][0]) + 1e-6


@given(rate=RATES, tries=TRIES)
def test_whoever_waits_as_told_gets_in(rate: float, tries: list[tuple[float, int]]) -> None:
    """The told time is enough, however much is owed; half of it is not."""
    bucket, now = Bucket(rate, 0.0), 0.0
    for gap, amount in tries:
        now += gap
        wait_s = bucket.take(amount, now)
        if wait_s:
            if wait_s > 1e-3:
                assert bucket.take(amount, now + wait_s / 2) > 0
            now += wait_s
            assert bucket.take(amount, now) == 0


@given(rate=RATES, count=st.integers(1, 200))
def test_a_steady_caller_within_its_rate_is_never_refused(rate: float, count: int) -> None:
    """One request every 1/rate seconds always gets in."""
    bucket = Bucket(rate, 0.0)
    assert all(bucket.take(1, n / rate) == 0 for n in range(count))


def test_a_clock_that_steps_back_gives_nothing() -> None:
    """Time that did not pass refills nothing."""
    bucket = Bucket(1.0, 10.0)
    assert bucket.take(1, 10.0) == 0
    assert bucket.take(1, 5.0) == 1.0
    assert bucket.take(1, 10.5) == 0.5


@given(
    most=st.integers(1, 8),
    steps=st.lists(st.one_of(st.integers(1, 8), st.just(0)), max_size=60),
)
def test_never_more_at_once_than_allowed(most: int, steps: list[int]) -> None:
    """A number asks for so many; 0 ends the oldest. What runs is exactly what got in and did not leave."""
    quota, running = Quota(Allowance(concurrency=most), 0.0), list[int]()
    for amount in steps:
        if not amount:
            if running:
                quota.leave(running.pop(0))
        elif sum(running) + amount <= most:
            quota.enter(amount, 0.0)
            running.append(amount)
        else:
            with pytest.raises(LimitReached):
                quota.enter(amount, 0.0)
        assert quota.running == sum(running) <= most


def test_a_refusal_for_concurrency_takes_nothing_from_the_rate() -> None:
    """A request that cannot run now does not use up what it may send."""
    quota = Quota(Allowance(rate=1, concurrency=1), 0.0)
    quota.enter(1, 0.0)
    with pytest.raises(LimitReached, match="at once"):
        quota.enter(1, 10.0)
    quota.leave(1)
    quota.enter(1, 10.0)


def test_a_changed_allowance_keeps_what_runs() -> None:
    """Rewriting a token's limits does not let it run more than the new ones."""
    quota = Quota(Allowance(concurrency=4), 0.0)
    quota.enter(3, 0.0)
    quota.allow(Allowance(rate=1, concurrency=3), 0.0)
    with pytest.raises(LimitReached, match="3 requests at once"):
        quota.enter(1, 0.0)
    quota.leave(3)
    quota.enter(1, 0.0)
    with pytest.raises(LimitReached, match="1 requests a second") as caught:
        quota.enter(1, 0.0)
    assert caught.value.retry_after_s == 1.0
    quota.enter(0, 0.0)  # what costs nothing always gets in

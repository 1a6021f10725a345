"""The bounds of the queue: who is refused, and what he is told about when to come back."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.server.config import EngineConfig
from paceline.server.door import Door
from paceline.server.drain_rate import DrainRate
from paceline.server.errors import QueueFull
from paceline.server.request import Request
from paceline.server.sequence import Sequence
from scheduler_bench import request


class House:
    """A door whose clock is set by hand, and the line before it."""

    def __init__(self, **config: Any) -> None:
        self.now = 0.0
        self.door = Door(EngineConfig(**config), lambda: self.now)
        self.line: list[Sequence] = []

    def come(self, **fields: Any) -> None:
        made: Request = request(str(self.now), [3, 4], **fields)
        self.door.enter(made)
        self.line += [Sequence(made, index, 0) for index in range(made.n)]

    def step(self, seconds: float, joins: int = 0, cancels: int = 0) -> None:
        """Time passes; then a step is planned, in which so many join, and so many leave before that."""
        self.now += seconds
        for _ in range(cancels):
            self.door.leave(self.line.pop(0))
        for _ in range(joins):
            sequence = self.line.pop(0)
            sequence.slot = 1
            self.door.leave(sequence)
        self.door.planned(len(self.line), self.now)

    def crowd(self, waiting: int, per_s: int) -> None:
        """Brings about a line so long that has been emptying at this rate for a while."""
        for _ in range(60 * per_s + waiting):
            self.come()
        self.step(0.0)
        for _ in range(60):
            self.step(1.0, joins=per_s)

    def refusal(self, **fields: Any) -> float:
        with pytest.raises(QueueFull) as caught:
            self.come(**fields)
        assert caught.value.retry_after_s is not None
        return caught.value.retry_after_s


def test_bounds_count_completions_and_prompt_tokens() -> None:
    """Each bound refuses by itself; what left makes room again."""
    by_requests = House(max_queue_requests=3)
    by_requests.come(n=2)
    by_requests.refusal(n=2)
    by_requests.step(0.1, joins=1)
    by_requests.come(n=2)

    by_tokens = House(max_queue_tokens=5)
    by_tokens.come(n=2)
    by_tokens.refusal()
    by_tokens.step(0.1, cancels=1)
    by_tokens.come()
    assert by_tokens.door.rejected == 1


@pytest.mark.parametrize("per_s", [2, 40])
def test_the_advice_is_the_time_in_which_the_queue_empties(per_s: int) -> None:
    """It follows the rate at which requests were seen to get their turn."""
    house = House(max_queue_requests=60 * per_s + 80, max_queue_tokens=10**6)
    house.crowd(80, per_s)
    for _ in range(60 * per_s):
        house.come()
    waiting = 60 * per_s + 80
    assert house.refusal() == pytest.approx(min(60.0, waiting / per_s), rel=0.1)


def test_advice_has_bounds() -> None:
    """Neither at once nor in an hour; one second where nothing is known."""
    assert House(max_queue_requests=1).refusal(n=2) == 1.0
    stuck = House(max_queue_requests=5)
    stuck.come(n=5)
    stuck.step(0.0)
    stuck.step(3600.0)
    assert stuck.refusal() == 60.0
    fast = House(max_queue_requests=5)
    fast.come(n=5)
    fast.step(0.0)
    fast.step(0.001, joins=1)
    assert fast.refusal(n=2) == 0.05


def test_a_wait_that_would_be_too_long_is_refused() -> None:
    """`max_queue_wait_s` bounds the wait whatever the length of the line; an urgent request waits less."""
    house = House(max_queue_wait_s=2.0, max_queue_requests=10_000)
    house.come()
    house.step(0.0)
    for _ in range(60):
        for _ in range(10):
            house.come(priority=5)
        house.step(1.0, joins=10)
    while house.door._wait_s(5) <= 2.0:
        house.come(priority=5)
    assert len(house.line) == pytest.approx(20, abs=3)
    house.refusal(priority=5)
    house.come(priority=4)


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    """With `admission` deadline: nobody is let in who would still wait when his time is up."""
    house = House(admission="deadline", max_queue_requests=10_000, max_queue_tokens=10**6)
    house.crowd(50, 10)
    house.refusal(deadline=house.now + 3.0)
    house.come(deadline=house.now + 8.0)
    house.come()

    patient = House(max_queue_requests=10_000, max_queue_tokens=10**6)
    patient.crowd(50, 10)
    patient.come(deadline=patient.now + 3.0)


def test_a_house_with_free_rows_says_nothing_about_a_full_one() -> None:
    """Joins of requests that never had to wait do not count as a rate."""
    house = House(max_queue_requests=100)
    for _ in range(50):
        house.come()
        house.step(0.01, joins=1)
    assert house.door.wait_s() == 0.0
    house.come(n=100)
    assert house.refusal() == 1.0


def test_what_was_seen_fades() -> None:
    """A rate that changed is believed after a while."""
    rate = DrainRate()
    assert rate.per_s is None
    for joins in (10, 1):
        for _ in range(120):
            rate.passed(1.0)
            for _ in range(joins):
                rate.joined()
        assert rate.per_s == pytest.approx(joins, rel=0.1)

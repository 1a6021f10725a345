"""Whether arrivals outrun a server, from the number in flight."""

from __future__ import annotations

import random

import pytest

from paceline.loadgen.saturation import evenly, in_flight_slope, over_saturated, rates_of


def queue(rate: float, capacity: float, seconds: float, seed: int) -> list[tuple[float, float]]:
    """In flight every 50 ms in a queue that is served at random times, `capacity` a second."""
    rng, steps, flying, now = random.Random(seed), [], 0, 0.0
    arrival, end = rng.expovariate(rate), rng.expovariate(capacity)
    while now < seconds:
        now = min(arrival, end)
        if arrival <= end:
            flying, arrival = flying + 1, now + rng.expovariate(rate)
        else:
            flying, end = max(0, flying - 1), now + rng.expovariate(capacity)
        steps.append((now, float(flying)))
    return evenly(steps, 0.0, seconds, int(20 * seconds))


@pytest.mark.parametrize("seed", range(10))
def test_a_queue_that_grows_is_told_from_one_that_does_not(seed: int) -> None:
    """Arrivals at half of what is served leave no trace; at one and a half they pile up."""
    assert not over_saturated(queue(10, 20, 20, seed), 10)
    assert over_saturated(queue(30, 20, 20, seed), 30)


def test_slope_is_requests_a_second() -> None:
    """Of a straight line it is its own slope, whatever time it began at."""
    line = [(100 + 0.1 * i, 3 + 0.5 * i) for i in range(40)]
    assert in_flight_slope(line) == pytest.approx(5.0)
    assert in_flight_slope([]) == in_flight_slope([(1.0, 4.0)]) == 0.0


def test_a_handful_is_no_growth() -> None:
    """A few requests more at a low rate are the noise of arrivals."""
    assert not over_saturated([(0.0, 0.0), (10.0, 4.0)], 1.0)
    assert over_saturated([(0.0, 0.0), (10.0, 6.0)], 1.0)
    assert not over_saturated([(0.0, 9.0)], 1.0)


def test_looking_at_a_step_function() -> None:
    """Before its first step it is 0, then what the last step said."""
    assert evenly([(1.0, 2), (2.0, 5)], 0.0, 2.0, 5) == [
        (0.0, 0.0),
        (0.5, 0.0),
        (1.0, 2.0),
        (1.5, 2.0),
        (2.0, 5.0),
    ]


def test_rates_are_fractions_to_two_digits() -> None:
    """Equal ones are named once."""
    assert rates_of(12.34, (0.1, 0.5, 1.0)) == (1.2, 6.2, 12.0)
    assert rates_of(0.5, (0.999, 1.0)) == (0.5,)

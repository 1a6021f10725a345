"""What each mode lets join."""

from __future__ import annotations

import pytest

from paceline.server.config import EngineConfig, Mode
from paceline.server.policy import Policy, Queue, make_policy


def policy(mode: Mode) -> Policy:
    return make_policy(EngineConfig(mode=mode, max_batch_size=4, max_wait_ms=100))


@pytest.mark.parametrize(
    ("mode", "running", "waiting", "waited_s", "joiners"),
    [
        (Mode.SEQUENTIAL, 0, 3, 0.0, 1),
        (Mode.SEQUENTIAL, 1, 3, 9.0, 0),
        (Mode.STATIC, 0, 3, 0.05, 0),
        (Mode.STATIC, 0, 3, 0.1, 3),
        (Mode.STATIC, 0, 9, 0.0, 4),
        (Mode.STATIC, 1, 9, 9.0, 0),
        (Mode.DYNAMIC, 0, 3, 0.05, 0),
        (Mode.DYNAMIC, 0, 3, 0.1, 3),
        (Mode.DYNAMIC, 1, 9, 9.0, 0),
        (Mode.CONTINUOUS, 0, 3, 0.0, 3),
        (Mode.CONTINUOUS, 3, 3, 0.0, 1),
        (Mode.CONTINUOUS, 4, 3, 9.0, 0),
    ],
)
def test_joiners(mode: Mode, running: int, waiting: int, waited_s: float, joiners: int) -> None:
    """Sequential and batches wait for an empty engine, continuous only for a free row."""
    queue = Queue(running, waiting, oldest_arrival=10.0, now=10.0 + waited_s)

    assert policy(mode).joiners(queue) == joiners


@pytest.mark.parametrize("mode", list(Mode))
def test_nobody_joins_from_an_empty_queue(mode: Mode) -> None:
    """An empty queue has no joiners in any mode."""
    assert policy(mode).joiners(Queue(0, 0, 0.0, 100.0)) == 0


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_a_batch_starts_at_the_very_time_it_asks_for(mode: Mode) -> None:
    """Asked again at `asks_again_at`, a batching mode says yes: the engine cannot spin."""
    arrival = 1234.567891234
    due = policy(mode).asks_again_at(arrival)

    assert due is not None
    assert policy(mode).joiners(Queue(0, 1, arrival, due)) == 1

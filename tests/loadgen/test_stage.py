"""When a level has enough."""

from __future__ import annotations

import json

from paceline.loadgen.options import LoadOptions
from paceline.loadgen.stage import LevelClock, Progress, Stage

OPTIONS = LoadOptions(level_min_s=5.0, level_max_s=30.0, level_requests=20, drain_s=3.0)


def opened() -> LevelClock:
    """Level 4, second of the sweep, opened at 100 s; its first four requests are warm-up."""
    return LevelClock(OPTIONS, index=1, level=4, opened_s=100.0)


def test_needs_both_minima() -> None:
    """A level goes on until its time after warm-up and its requests are both reached."""
    clock = opened()
    clock.take("a", Progress(1, sent=4, ended=0, flying=4), 100.5)
    clock.take("a", Progress(1, sent=30, ended=25, flying=4), 102.0)  # measuring from here
    assert not clock.enough(106.9)
    assert clock.enough(107.0)
    slow = opened()
    slow.take("a", Progress(1, sent=5, ended=19, flying=4), 101.0)
    assert not slow.enough(110.0)
    slow.take("a", Progress(1, sent=6, ended=20, flying=4), 110.0)
    assert slow.enough(110.0)


def test_longest_time_ends_it() -> None:
    """After the longest time a level stops even if nothing ended."""
    assert not opened().enough(129.9)
    assert opened().enough(130.0)


def test_what_a_level_leaves_goes_to_the_next() -> None:
    """The sweep as a whole takes no longer: a level that had enough early lets a slow one fill up."""
    early = opened()
    early.close(108.0)
    assert early.left_s() == 22.0
    late = LevelClock(OPTIONS, index=2, level=16, opened_s=200.0, saved_s=early.left_s())
    assert not late.enough(251.9)
    assert late.enough(252.0)
    late.close(252.5)
    assert late.left_s() == 0.0


def test_workers_add_up_and_old_levels_do_not_count() -> None:
    """Reports of several workers are summed; those about another level are ignored."""
    clock = opened()
    clock.take("a", Progress(1, sent=4, ended=10, flying=2), 100.0)
    clock.take("b", Progress(1, sent=4, ended=9, flying=2), 100.0)
    clock.take("c", Progress(0, sent=90, ended=90), 100.0)
    assert not clock.enough(120.0)
    clock.take("b", Progress(1, sent=5, ended=10, flying=2), 120.0)
    assert clock.enough(120.0)


def test_drained_needs_a_report_of_every_worker_since_closing() -> None:
    """Draining ends when every worker has heard of the close and has nothing in flight."""
    clock = opened()
    clock.take("a", Progress(1, flying=0), 104.0)
    clock.take("b", Progress(1, flying=0), 104.0)
    clock.close(105.0)
    assert not clock.drained(2)
    clock.take("a", Progress(1, flying=0), 105.1)
    clock.take("b", Progress(1, flying=0, open=True), 105.1)  # sent before it heard
    assert not clock.drained(2)
    clock.take("b", Progress(1, flying=1), 105.1)
    assert not clock.drained(2)
    clock.take("b", Progress(1, flying=0), 105.2)
    assert clock.drained(2)


def test_overdue() -> None:
    """Draining may take its time and no longer."""
    clock = opened()
    assert not clock.overdue(999.0)
    clock.close(105.0)
    assert not clock.overdue(107.9)
    assert clock.overdue(108.0)


def test_messages_survive_their_transport() -> None:
    """Stage and progress are the same after a trip as plain data."""
    stage = Stage(2, 8, open=True, slot=1, slots=2, warmup=8)
    assert Stage(**json.loads(json.dumps(stage.to_message()))) == stage
    progress = Progress(2, 5, 3, 2)
    assert Progress(**json.loads(json.dumps(progress.to_message()))) == progress

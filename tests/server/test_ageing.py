"""Priorities do not starve anybody."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.server.config import Mode
from scheduler_bench import Bench, request

MOST = 4  # output tokens of a request, and so the steps that it takes


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from([Mode.SEQUENTIAL, Mode.CONTINUOUS]),
    priority=st.integers(0, 20),
    ageing_s=st.sampled_from([0.5, 1.0, 3.0]),
    crowd=st.lists(st.tuples(st.integers(-20, 20), st.integers(1, MOST)), max_size=10),
    stream=st.lists(st.tuples(st.integers(-20, 19), st.integers(1, MOST)), min_size=1, max_size=8),
)
def test_nobody_waits_longer_than_his_priority_says(
    mode: Mode,
    priority: int,
    ageing_s: float,
    crowd: list[tuple[int, int]],
    stream: list[tuple[int, int]],
) -> None:
    """More urgent requests come in every step for ever; yet who waits joins within a bound that is known before."""
    bench = Bench(mode, ageing_s=ageing_s)
    for number, (level, tokens) in enumerate(crowd):
        bench.scheduler.add(request(f"crowd {number}", [3], tokens, priority=level))
    bench.scheduler.add(request("waits", [4], 1, priority=priority))
    # Whoever comes after this is behind, even with the most urgent priority there is.
    overtaken_s = (priority + 20) * ageing_s
    bound = round((len(crowd) + overtaken_s + 2) * MOST) + 2

    steps = 0
    while ("waits", 0) not in bench.reasons:
        level, tokens = stream[steps % len(stream)]
        bench.scheduler.add(request(f"urgent {steps}", [5], tokens, priority=level, at=bench.now))
        bench.step()
        steps += 1
        assert steps <= bound

    if mode is Mode.SEQUENTIAL:  # and nobody went before it who came too late for that
        for number in (int(id.split()[1]) for id, _ in bench.reasons if id.startswith("urgent")):
            level = stream[number % len(stream)][0]
            assert number + level * ageing_s <= priority * ageing_s


def test_one_step_of_priority_is_worth_its_seconds() -> None:
    """Who came `ageing_s` earlier goes before one step of urgency, and not before two."""
    bench = Bench(Mode.SEQUENTIAL, ageing_s=10.0)
    bench.scheduler.add(request("running", [3], 2))
    bench.step()
    bench.scheduler.add(request("early", [3], 1, at=5.0))
    bench.scheduler.add(request("late", [4], 1, at=15.1, priority=-1))
    bench.scheduler.add(request("urgent", [5], 1, at=15.1, priority=-2))

    bench.run()

    assert [id for id, _ in bench.reasons] == ["running", "urgent", "early", "late"]

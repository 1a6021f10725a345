"""The rules of restarts: delays, suspects, and when an engine is given up."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.server.config import ServeConfig
from paceline.server.facts import Facts
from paceline.server.processes import keeper
from paceline.server.processes.backoff import Backoff
from paceline.server.processes.flight_record import Passenger
from paceline.server.processes.keeper import Keeper, Listeners
from paceline.server.processes.suspects import Suspects, fingerprint
from paceline.server.request import Request, SamplingParams, StoppingParams

WAIT_S = 100.0  # for three processes to import libraries, on a machine that may be busy
REQUEST = Request("a", (1, 2, 3), SamplingParams(), StoppingParams(8), 1.0)


class TestBackoff:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.floats(0, 200), min_size=1, max_size=50))
    def test_delays_double_and_start_over(self, lives: list[float]) -> None:
        """Each delay is the first one after a steady life, and otherwise twice the last one, up to the most."""
        backoff, last = Backoff(0.5, 30.0, 60.0), 0.0
        for lived in lives:
            delay = backoff.after(lived)
            expected = 0.5 if lived > 60.0 or not last else min(30.0, 2 * last)
            assert delay == expected
            last = delay

    def test_a_row_of_deaths(self) -> None:
        """From half a second to half a minute in seven deaths."""
        backoff = Backoff(0.5, 30.0, 60.0)
        assert [backoff.after(1.0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


class TestSuspects:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(st.booleans(), st.sets(st.binary(max_size=1), max_size=4))))
    def test_deaths_count_until_cleared(self, events: list[tuple[bool, set[bytes]]]) -> None:
        """Each death counts once for who was there; a good end starts from nothing."""
        suspects, expected = Suspects(), Counter[bytes]()
        for died, names in events:
            if died:
                suspects.blame(names)
                expected.update(names)
            else:
                for name in names:
                    suspects.clear(name)
                    del expected[name]
        assert suspects.deaths == expected

    def test_memory_is_bounded(self) -> None:
        """Who was not there for the longest time is forgotten first."""
        suspects = Suspects(most=3)
        for names in ([b"a", b"b"], [b"c", b"d"], [b"b", b"c"], [b"e"]):
            suspects.blame(names)
        assert suspects.deaths == {b"b": 2, b"c": 2, b"e": 1}

    def test_a_request_is_known_again(self) -> None:
        """Under another id, at another time and with another seed, but not with another prompt or parameter."""
        again = replace(
            REQUEST,
            id="b",
            arrival=9.0,
            deadline=10.0,
            time_limit=11.0,
            priority=3,
            sampling=SamplingParams(seed=7),
        )
        assert fingerprint(again) == fingerprint(REQUEST)
        others = [
            replace(REQUEST, prompt_ids=(1, 2, 4)),
            replace(REQUEST, n=2),
            replace(REQUEST, logprobs=1),
            replace(REQUEST, sampling=SamplingParams(0.5)),
            replace(REQUEST, stopping=StoppingParams(8, stop_token_ids=frozenset({5, 6}))),
        ]
        assert len({fingerprint(each) for each in [REQUEST, *others]}) == 6


async def test_an_engine_that_gets_ready_no_more_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries: whoever waits for it is told of each death, and at last that it failed."""
    model = tmp_path / "model"
    model.touch()
    monkeypatch.setenv("MODEL", str(model))
    monkeypatch.setattr(keeper, "_MOST_TRIES", 2)
    ready: list[int] = []
    gone: list[int] = []

    def on_ready(_facts: Facts, generation: int) -> None:
        ready.append(generation)

    def on_gone(on_board: Collection[Passenger], back_in_s: float) -> None:
        gone.append(len(on_board))
        assert back_in_s > 0

    one = Keeper(
        ServeConfig(port=0, metrics_port=None),
        "mock_serving:load_mock",
        tmp_path,
        Listeners(on_ready, on_gone),
        Backoff(0.01, 0.01, 60.0),
    )
    try:
        async with asyncio.timeout(WAIT_S):
            await one.start()
            assert one.view.healthy
            model.unlink()
            children = psutil.Process().children()  # servers of other tests are among them
            (engine,) = [each for each in children if keeper._MODULE in each.cmdline()]
            engine.send_signal(signal.SIGKILL)
            await one.failed.wait()
    finally:
        await one.close()
    assert not one.view.healthy
    assert (ready, gone) == ([1], [0, 0, 0])

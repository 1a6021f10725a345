"""The rules of restarts: delays, suspects, and when an engine is given up."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mock_serving import load_mock
from paceline.server.config import ServeConfig
from paceline.server.errors import SetupError
from paceline.server.facts import Facts
from paceline.server.loader import Loaded
from paceline.server.processes import keeper
from paceline.server.processes.backoff import Backoff
from paceline.server.processes.flight_record import Passenger
from paceline.server.processes.keeper import Keeper, Listeners
from paceline.server.processes.suspects import Suspects, fingerprint
from paceline.server.request import Request, SamplingParams, StoppingParams

WAIT_S = 60.0
REQUEST = Request("a", (1, 2, 3), SamplingParams(), StoppingParams(8), 1.0)


class TestBackoff:
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
    @given(
        st.lists(
            st.tuples(st.booleans(), st.frozensets(st.integers(0, 9), max_size=6)), max_size=30
        )
    )
    def test_deaths_count_until_cleared(self, events: list[tuple[bool, frozenset[int]]]) -> None:
        """Each death counts once for who was there; a good end starts from nothing; memory is bounded."""
        suspects, model, most = Suspects(most=5), dict[bytes, int](), 0
        for died, numbers in events:
            names = [bytes([number]) for number in numbers]
            if died:
                suspects.blame(names)
                for name in names:
                    model[name] = model.get(name, 0) + 1
            else:
                for name in names:
                    suspects.clear(name)
                    model.pop(name, None)
            most = max(most, len(suspects.deaths))
            assert all(count <= model[name] for name, count in suspects.deaths.items())
            assert len(suspects.deaths) == min(5, len(model)) or len(model) > 5
            if len(model) <= 5 and most < 5:
                assert suspects.deaths == model
        assert most <= 5

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


def load_once(config: ServeConfig) -> Loaded:
    """A model that can be loaded as long as the file `MODEL_FILE` of the environment is there."""
    if not Path(os.environ["MODEL_FILE"]).exists():
        raise SetupError("the model is not there any more")
    return load_mock(config)


async def test_an_engine_that_gets_ready_no_more_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries: whoever waits for it is told of one death alone, and that it failed."""
    model = tmp_path / "model"
    model.touch()
    monkeypatch.setenv("MODEL_FILE", str(model))
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
        "test_restart_rules:load_once",
        tmp_path,
        Listeners(on_ready, on_gone),
        Backoff(0.01, 0.01, 60.0),
    )
    async with asyncio.timeout(WAIT_S):
        await one.start()
        assert one.view.healthy
        model.unlink()
        (engine,) = psutil.Process().children()
        engine.send_signal(signal.SIGKILL)
        await one.failed.wait()
        await one.close()
    assert not one.view.healthy
    assert (ready, gone) == ([1], [0, 0])

"""Steps that do not fit into the device's memory shrink, and nobody suffers who could be served."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest

from paceline.server.bounds import StepBounds
from paceline.server.config import EngineConfig, Mode
from paceline.server.engine import Engine
from paceline.server.errors import OutOfMemory, StepOutOfMemory
from paceline.server.mock import MockRunner
from paceline.server.request import Output, Request, SamplingParams, StoppingParams
from paceline.server.step import Sampled, Step
from paper_model import expected_tokens

PATIENCE_S = 20.0
PROMPTS = [(3 + i,) * (5 + 7 * i) for i in range(8)]


class Small(MockRunner):
    """A device on which some steps do not fit: it says so in launch, or only when they are collected."""

    def __init__(self, fits: Callable[[Step], bool], *, ahead: bool, in_launch: bool) -> None:
        super().__init__(vocab_size=100, num_pages=128, max_context_tokens=200, ahead=ahead)
        self._fits = fits
        self._in_launch = in_launch

    def launch(self, step: Step) -> object:
        if self._fits(step):
            return super().launch(step)
        if self._in_launch:
            raise StepOutOfMemory("scripted")
        super().launch(step)
        return None

    def collect(self, handle: object) -> Sampled:
        if handle is None:
            raise StepOutOfMemory("scripted")
        return super().collect(handle)


def serve(
    fits: Callable[[Step], bool], *, ahead: bool, in_launch: bool, mode: Mode = Mode.CONTINUOUS
) -> list[Output]:
    outputs: list[Output] = []
    runner = Small(fits, ahead=ahead, in_launch=in_launch)
    config = EngineConfig(mode=mode, max_batch_size=4, max_wait_ms=1, page_size=4)
    engine = Engine(runner, config, outputs.extend)
    engine.start()
    for i, prompt in enumerate(PROMPTS):
        stopping = StoppingParams(6)
        engine.submit(Request(str(i), prompt, SamplingParams(), stopping, time.monotonic()))
    assert engine.wait_idle(PATIENCE_S)
    assert engine.healthy
    assert engine.load().pages_used == 0
    engine.stop()
    return outputs


def tokens_of(outputs: list[Output], id: str) -> tuple[int, ...]:
    return tuple(t for o in outputs if o.request_id == id for t in o.token_ids)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("in_launch", [False, True])
@pytest.mark.parametrize("mode", list(Mode))
def test_steps_shrink_until_they_fit(
    mode: Mode, in_launch: bool, ahead: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Where only small steps of two rows fit, all are served, and the log says what the bounds are."""

    def fits(step: Step) -> bool:
        return step.real_tokens <= 20 and len(step.rows) <= 2

    outputs = serve(fits, ahead=ahead, in_launch=in_launch, mode=mode)

    for i, prompt in enumerate(PROMPTS):
        assert tokens_of(outputs, str(i)) == expected_tokens(prompt, 6)
    assert Counter(o.request_id for o in outputs if o.finish) == Counter(map(str, range(8)))
    lines = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert lines and "from now on at most" in lines[-1]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("in_launch", [False, True])
def test_who_does_not_fit_alone_fails_alone(in_launch: bool, ahead: bool) -> None:
    """A request whose steps never fit ends with an error of its own; the others are served."""

    def fits(step: Step) -> bool:
        return all(row.sequence.request.id != "3" or row.end < 24 for row in step.rows)

    outputs = serve(fits, ahead=ahead, in_launch=in_launch)

    errors = {o.request_id: o.finish.error for o in outputs if o.finish and o.finish.error}
    assert list(errors) == ["3"]
    assert isinstance(errors["3"], OutOfMemory)
    for i, prompt in enumerate(PROMPTS):
        if i != 3:
            assert tokens_of(outputs, str(i)) == expected_tokens(prompt, 6)
    assert Counter(o.request_id for o in outputs if o.finish) == Counter(map(str, range(8)))


def test_bounds_halve_to_their_floor_and_grow_back() -> None:
    """Tokens halve down to 16, then rows down to one; a thousand good steps give one step back."""
    bounds = StepBounds(EngineConfig(max_batch_size=8, max_step_tokens=100))
    seen = []
    while bounds.shrink():
        seen.append((bounds.tokens, bounds.rows))
    assert seen == [(50, 8), (25, 8), (16, 8), (16, 4), (16, 2), (16, 1)]

    grown = []
    for _ in range(10):
        for _ in range(1000):
            bounds.count_good_step()
        grown.append((bounds.tokens, bounds.rows))
    assert grown[:4] == [(16, 2), (16, 4), (16, 8), (32, 8)]
    assert grown[-1] == (100, 8)


def test_rows_never_outnumber_tokens() -> None:
    """Every running row gets its token in each step, however small the steps are."""
    bounds = StepBounds(EngineConfig(max_batch_size=64, max_step_tokens=16))
    assert (bounds.tokens, bounds.rows) == (64, 64)
    bounds.shrink()
    assert (bounds.tokens, bounds.rows) == (32, 32)


def test_a_bound_that_grew_too_early_waits_longer() -> None:
    """After growth was punished, it takes twice as many good steps to try again."""
    bounds = StepBounds(EngineConfig(max_batch_size=1, max_step_tokens=32))
    bounds.shrink()
    for _ in range(1000):
        bounds.count_good_step()
    assert bounds.tokens == 32
    bounds.shrink()
    for _ in range(1999):
        bounds.count_good_step()
    assert bounds.tokens == 16
    bounds.count_good_step()
    assert bounds.tokens == 32

"""Steps launched before the one before them is read back: the same tokens, in better time."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from paceline.server.config import EngineConfig, Mode
from paceline.server.engine import Engine
from paceline.server.guidance import Guides
from paceline.server.mock import MockRunner
from paceline.server.request import (
    Constraint,
    FinishReason,
    Output,
    Request,
    SamplingParams,
    StoppingParams,
)
from paceline.server.step import Sampled, Step
from paceline.server.tokenizer import Tokenizer
from paper_model import expected_tokens
from scheduler_bench import Bench, request

PATIENCE_S = 30.0


class Recorder(MockRunner):
    """Notes the order of launches and collects."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(vocab_size=100, **settings)
        self.events: list[str] = []
        self._launched = 0
        self._numbers: dict[int, int] = {}

    def launch(self, step: Step) -> object:
        handle = super().launch(step)
        self._numbers[id(handle)] = self._launched
        self.events.append(f"launch {self._launched}")
        self._launched += 1
        return handle

    def collect(self, handle: object) -> Sampled:
        self.events.append(f"collect {self._numbers[id(handle)]}")
        return super().collect(handle)


@pytest.mark.parametrize("wanted", [False, True])
def test_a_step_is_launched_before_the_one_before_it_is_collected(wanted: bool) -> None:
    """With launch-ahead a launch comes between the launch and the collect of a step; without, none does."""
    outputs: list[Output] = []
    runner = Recorder(ahead=True)
    engine = Engine(runner, EngineConfig(page_size=4, launch_ahead=wanted), outputs.extend)
    engine.start()
    stopping = StoppingParams(3)
    engine.submit(Request("r", (3, 4), SamplingParams(), stopping, time.monotonic()))
    assert engine.wait_idle(PATIENCE_S)
    engine.stop()

    ahead = "launch 0, launch 1, collect 0, launch 2, collect 1, collect 2"
    in_turn = "launch 0, collect 0, launch 1, collect 1, launch 2, collect 2"
    assert ", ".join(runner.events) == (ahead if wanted else in_turn)
    assert tuple(t for o in outputs for t in o.token_ids) == expected_tokens((3, 4), 3)


@pytest.mark.parametrize("mode", list(Mode))
def test_counters_are_those_of_steps_in_turn(mode: Mode) -> None:
    """Where all rows end by their length, launch-ahead computes nothing in vain."""
    loads = []
    for ahead in (False, True):
        bench = Bench(mode, num_pages=60, ahead=ahead)
        for i in range(4):
            bench.scheduler.add(request(str(i), [3 + i] * (1 + 5 * i), 2 + 3 * i))
        bench.run()
        loads.append(bench.scheduler.load(0.0))

    assert loads[0] == loads[1]


def test_an_end_by_token_is_seen_one_step_late_and_costs_one_row() -> None:
    """After an end-of-sequence token the row in flight is dropped without an output."""
    ends = frozenset({expected_tokens([3, 4], 3)[-1]})
    bench = Bench(Mode.CONTINUOUS, ahead=True)
    bench.scheduler.add(request("r", [3, 4], 9, ends=ends))

    bench.run()

    tokens = expected_tokens([3, 4], 9)
    cut = next(i for i, token in enumerate(tokens) if token in ends) + 1
    assert bench.tokens["r", 0] == tokens[:cut]
    assert bench.scheduler.load(0.0).real_tokens == 2 + (cut - 1) + 1
    assert len([o for o in bench.outputs if o.finish]) == 1


def test_a_slot_goes_to_the_next_while_its_last_row_is_in_flight() -> None:
    """Who joins in the place of a cancelled request is not given that one's token."""
    bench = Bench(Mode.CONTINUOUS, ahead=True, max_batch_size=1)
    bench.scheduler.add(request("first", [3, 4], 9))
    bench.scheduler.add(request("second", [5, 6, 7], 9))
    bench.step()
    bench.step()
    assert bench.in_flight is not None
    first = bench.in_flight[0].rows[0].sequence
    assert first.slot == 0
    bench.outputs += bench.scheduler.cancel("first", FinishReason.CANCELLED, bench.now)
    step = bench.step()

    assert step is not None
    assert [row.sequence.slot for row in step.rows] == [0]
    bench.run()
    assert bench.tokens["first", 0] == expected_tokens([3, 4], 1)
    assert bench.tokens["second", 0] == expected_tokens([5, 6, 7], 9)


def test_company_is_counted_over_the_steps_of_a_request() -> None:
    """Mean and maximum of rows are those of the steps between a request's joining and its last token."""
    for ahead in (False, True):
        bench = Bench(Mode.CONTINUOUS, ahead=ahead)
        bench.scheduler.add(request("long", [3], 6))
        bench.step()
        bench.step()
        bench.scheduler.add(request("short", [4], 2))
        bench.run()

        timings = {o.request_id: o.finish.timings for o in bench.outputs if o.finish}
        assert (timings["short"].batch_rows_mean, timings["short"].batch_rows_max) == (2.0, 2)
        assert timings["long"].batch_rows_mean == pytest.approx((4 * 1 + 2 * 2) / 6)
        assert timings["long"].batch_rows_max == 2


@pytest.mark.parametrize("wanted", [False, True])
def test_a_constrained_row_sits_launches_out_and_others_do_not(
    tokenizer: Tokenizer, wanted: bool
) -> None:
    """A constrained row waits for its newest token; its neighbour is in every step, with the same tokens."""
    steps: list[list[str]] = []
    both = threading.Event()

    def on_step(step: Step) -> None:
        assert both.wait(PATIENCE_S)
        steps.append([row.sequence.request_id for row in step.rows])

    runner = MockRunner(vocab_size=100, ahead=True, on_step=on_step)
    outputs: list[Output] = []
    config = EngineConfig(page_size=4, launch_ahead=wanted)
    guides, digits = Guides(tokenizer, 100, [2]), Constraint("regex", ("[0-9]{4}",))
    guides.check(digits)  # compiled before, so that both begin together
    engine = Engine(runner, config, outputs.extend, guides=guides)
    now = time.monotonic()
    free = Request("free", (3, 4), SamplingParams(), StoppingParams(9), now)
    stopping = StoppingParams(9, eos_token_ids=frozenset({2}))
    guided = Request("guided", (5,), SamplingParams(), stopping, now, constraint=digits)
    engine.start()
    engine.submit(free)
    engine.submit(guided)
    both.set()
    assert engine.wait_idle(PATIENCE_S)
    engine.stop()

    made = {
        name: [
            token for output in outputs if output.request_id == name for token in output.token_ids
        ]
        for name in ("free", "guided")
    }
    assert tuple(made["free"]) == expected_tokens((3, 4), 9)
    assert tokenizer.decode(made["guided"][:-1]).isdigit()
    assert len(made["guided"]) == 5 and made["guided"][-1] == 2
    running = [names for names in steps if "free" in names]
    assert len(running) == 9
    first = next(i for i, names in enumerate(steps) if "guided" in names)
    turns = ["guided" in names for names in steps[first : first + 5]]
    assert turns == ([True, False, True, False, True] if wanted else [True] * 5)

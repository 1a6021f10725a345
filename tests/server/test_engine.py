"""The engine's promises, on a runner without weights."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from paceline.server.config import EngineConfig, Mode
from paceline.server.engine import Engine
from paceline.server.errors import (
    DeadlineExceeded,
    EngineFailure,
    InvalidRequest,
    QueueFull,
    Unavailable,
)
from paceline.server.mock import MockRunner
from paceline.server.request import FinishReason, Output, Request, SamplingParams, StoppingParams
from paceline.server.step import Step
from paper_model import expected_tokens

PATIENCE_S = 30.0


def request(id: str, max_tokens: int = 5, prompt: tuple[int, ...] = (3, 4), **more: Any) -> Request:
    stopping = StoppingParams(max_tokens)
    return Request(id, prompt, SamplingParams(), stopping, time.monotonic(), **more)


class Gate:
    """Holds the engine inside a step until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, _: Step) -> None:
        self.entered.set()
        assert self._open.wait(PATIENCE_S)

    def open(self) -> None:
        self._open.set()


@contextmanager
def running(
    on_step: Callable[[Step], None] = lambda _: None, *, ahead: bool = False, **config: Any
) -> Iterator[tuple[Engine, list[Output]]]:
    outputs: list[Output] = []
    runner = MockRunner(
        vocab_size=100, num_pages=64, max_context_tokens=200, on_step=on_step, ahead=ahead
    )
    settings = EngineConfig(max_batch_size=4, page_size=4, **config)
    engine = Engine(runner, settings, outputs.extend)
    engine.start()
    try:
        yield engine, outputs
    finally:
        engine.stop()


def reasons(outputs: list[Output]) -> dict[str, FinishReason]:
    return {o.request_id: o.finish.reason for o in outputs if o.finish}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("mode", list(Mode))
def test_every_request_is_answered_in_every_mode(
    mode: Mode, deterministic: bool, ahead: bool
) -> None:
    """Each completion gets its own tokens in order and exactly one end."""
    settings: dict[str, Any] = {"deterministic": deterministic, "prefill_chunk": 8}
    with running(mode=mode, max_wait_ms=1, ahead=ahead, **settings) as (engine, outputs):
        for i in range(12):
            engine.submit(request(str(i), 3 + i, prompt=(3 + i,) * (1 + i)))

        assert engine.wait_idle(PATIENCE_S)

    for i in range(12):
        tokens = tuple(t for o in outputs if o.request_id == str(i) for t in o.token_ids)
        assert tokens == expected_tokens((3 + i,) * (1 + i), 3 + i)
    assert Counter(o.request_id for o in outputs if o.finish) == Counter(map(str, range(12)))


def test_batch_modes_start_without_another_message() -> None:
    """A lone request in static mode starts when its wait is over, although nothing else happens."""
    with running(mode=Mode.STATIC, max_wait_ms=5) as (engine, outputs):
        engine.submit(request("alone"))

        assert engine.wait_idle(PATIENCE_S)

    assert reasons(outputs) == {"alone": FinishReason.MAX_TOKENS}


def test_cancel_frees_pages_before_the_next_step() -> None:
    """A cancelled request's pages are free in the next snapshot, and it ends once."""
    gate = Gate()
    with running(gate) as (engine, outputs):
        engine.submit(request("r", 100))
        assert gate.entered.wait(PATIENCE_S)
        engine.cancel("r")
        engine.cancel("r")
        engine.cancel("unknown")
        gate.open()

        assert engine.wait_idle(PATIENCE_S)

        assert engine.load().pages_used == 0
    assert reasons(outputs) == {"r": FinishReason.CANCELLED}
    assert len([o for o in outputs if o.finish]) == 1


def test_a_deadline_ends_a_waiting_request_while_nothing_else_happens() -> None:
    """An expired request in a static queue fails although no message wakes the engine."""
    with running(mode=Mode.STATIC, max_wait_ms=60_000) as (engine, outputs):
        engine.submit(request("late", deadline=time.monotonic() + 0.01))

        assert engine.wait_idle(PATIENCE_S)

    (end,) = [o.finish for o in outputs if o.finish]
    assert isinstance(end.error, DeadlineExceeded)


def test_the_queue_is_bounded_by_requests() -> None:
    """One request more than may wait is refused with a time to come back."""
    gate = Gate()
    with running(gate, max_queue_requests=2, mode=Mode.SEQUENTIAL) as (engine, _):
        engine.submit(request("runs"))
        assert gate.entered.wait(PATIENCE_S)
        engine.submit(request("waits"))
        engine.submit(request("waits too"))

        with pytest.raises(QueueFull) as refused:
            engine.submit(request("refused"))

        assert refused.value.retry_after_s
        assert engine.load().requests_rejected == 1
        gate.open()
        assert engine.wait_idle(PATIENCE_S)
        engine.submit(request("welcome again"))


def test_the_queue_is_bounded_by_tokens() -> None:
    """A prompt that would make too many tokens wait is refused; a shorter one is not."""
    gate = Gate()
    with running(gate, max_queue_tokens=10, mode=Mode.SEQUENTIAL) as (engine, _):
        engine.submit(request("runs"))
        assert gate.entered.wait(PATIENCE_S)
        engine.submit(request("waits", prompt=(3,) * 6))

        with pytest.raises(QueueFull):
            engine.submit(request("refused", prompt=(3,) * 5))

        engine.submit(request("fits", prompt=(3,) * 4))
        gate.open()


def test_a_prompt_that_never_fits_is_the_callers_fault() -> None:
    """A prompt as long as the context is refused at once."""
    with running() as (engine, _), pytest.raises(InvalidRequest, match="context"):
        engine.submit(request("long", prompt=(3,) * 200))


@pytest.mark.parametrize("ahead", [False, True])
def test_a_failing_step_ends_its_rows_only(ahead: bool) -> None:
    """After a step went wrong the engine goes on, and what it says holds no detail."""
    failures = iter([True])

    def fail_once(_: Step) -> None:
        if next(failures, False):
            raise RuntimeError("secret detail")

    with running(fail_once, ahead=ahead) as (engine, outputs):
        engine.submit(request("unlucky"))
        assert engine.wait_idle(PATIENCE_S)
        engine.submit(request("next"))
        assert engine.wait_idle(PATIENCE_S)

    (error,) = [o.finish.error for o in outputs if o.finish and o.finish.error]
    assert isinstance(error, EngineFailure)
    assert "secret" not in str(error)
    assert reasons(outputs) == {"unlucky": FinishReason.ERROR, "next": FinishReason.MAX_TOKENS}


def test_drain_refuses_new_requests_and_finishes_the_rest() -> None:
    """After `drain` what runs goes on, what comes is refused."""
    gate = Gate()
    with running(gate) as (engine, outputs):
        engine.submit(request("running"))
        assert gate.entered.wait(PATIENCE_S)
        engine.drain()

        with pytest.raises(Unavailable):
            engine.submit(request("too late"))

        gate.open()
        assert engine.wait_idle(PATIENCE_S)
        assert engine.load().draining
    assert reasons(outputs) == {"running": FinishReason.MAX_TOKENS}


def test_stop_ends_what_runs_and_what_waits() -> None:
    """Every request gets an end, also when the engine stops first."""
    gate = Gate()
    with running(gate, mode=Mode.SEQUENTIAL) as (engine, outputs):
        for id in ("running", "waiting"):
            engine.submit(request(id, 100))
        assert gate.entered.wait(PATIENCE_S)
        assert engine.healthy
        stopper = threading.Thread(target=engine.stop)
        stopper.start()
        while not engine.load().draining:  # then the message is in the inbox
            pass
        gate.open()
        stopper.join(PATIENCE_S)

        assert not engine.healthy
        with pytest.raises(Unavailable):
            engine.submit(request("too late"))
    assert reasons(outputs) == {"running": FinishReason.ABORTED, "waiting": FinishReason.ABORTED}


def test_a_fault_of_the_engine_itself_ends_everything() -> None:
    """When the loop breaks outside a step, nobody is left waiting and new requests are refused."""
    outputs: list[Output] = []

    def break_once(delivered: list[Output]) -> None:
        outputs.extend(delivered)
        if len(outputs) == 1:
            raise RuntimeError("secret detail")

    engine = Engine(MockRunner(vocab_size=100), EngineConfig(page_size=4), break_once)
    engine.start()
    engine.submit(request("r", 9))

    assert engine.wait_idle(PATIENCE_S)

    end = outputs[-1].finish
    assert end is not None
    assert isinstance(end.error, EngineFailure)
    with pytest.raises(Unavailable):
        engine.submit(request("too late"))
    engine.stop()


def test_outputs_come_in_one_hand_off_per_step() -> None:
    """All rows of a step are delivered together."""
    deliveries: list[list[Output]] = []
    gate = Gate()
    runner = MockRunner(vocab_size=100, num_pages=64, on_step=gate)
    engine = Engine(runner, EngineConfig(max_batch_size=4, page_size=4), deliveries.append)
    engine.start()
    engine.submit(request("first", 3))
    assert gate.entered.wait(PATIENCE_S)
    engine.submit(request("second", 2))
    engine.submit(request("third", 2))
    gate.open()
    assert engine.wait_idle(PATIENCE_S)
    engine.stop()

    assert [sorted(o.request_id for o in d) for d in deliveries] == [
        ["first"],
        ["first", "second", "third"],
        ["first", "second", "third"],
    ]


def test_timings_add_up() -> None:
    """Queue, prefill and decode are parts of the total, and batch mates are counted."""
    with running() as (engine, outputs):
        engine.submit(request("r", 8, n=2))
        assert engine.wait_idle(PATIENCE_S)

    for finish in (o.finish for o in outputs if o.finish):
        t = finish.timings
        assert min(t.queue_s, t.prefill_s, t.decode_s) >= 0.0
        assert t.ttft_s == pytest.approx(t.queue_s + t.prefill_s)
        assert t.ttft_s + t.decode_s <= t.total_s
        assert t.batch_rows_mean == t.batch_rows_max == 2

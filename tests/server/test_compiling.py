"""Constraints that take long to compile: who waits for them, and how those who wait may end."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mock_serving import WAIT_S, HeldGuides
from paceline.server.config import EngineConfig, Mode
from paceline.server.engine import Engine
from paceline.server.errors import DeadlineExceeded, EngineFailure, InvalidRequest
from paceline.server.guidance import Guide
from paceline.server.mock import MockRunner
from paceline.server.request import (
    Constraint,
    Finish,
    FinishReason,
    Output,
    Request,
    SamplingParams,
    StoppingParams,
)
from paceline.server.step import Step
from paceline.server.tokenizer import Tokenizer

NEVER = Constraint("choice", ("never",))
EVER = Constraint("choice", ("ever",))


def request(name: str, constraint: Constraint | None = NEVER, **fields: Any) -> Request:
    stopping = StoppingParams(9)
    now = time.monotonic()
    return Request(name, (3, 4), SamplingParams(), stopping, now, constraint=constraint, **fields)


class Bench:
    """An engine whose constraints are held."""

    def __init__(self, tokenizer: Tokenizer, **settings: Any) -> None:
        self.guides = HeldGuides(tokenizer)
        self.steps: list[list[str]] = []  # ids of the rows
        self._tokenizer = tokenizer
        self._outputs: queue.SimpleQueue[list[Output]] = queue.SimpleQueue()
        self._seen: list[Output] = []
        runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=self._on_step)
        config = EngineConfig.model_validate(settings)
        self.engine = Engine(runner, config, self._outputs.put, guides=self.guides)
        self.engine.start()

    def submit_held(self, held: Request) -> None:
        """Returns when its constraint is being compiled."""
        self.engine.submit(held)
        assert self.guides.begun.wait(WAIT_S)

    def ends(self, name: str, completions: int = 1) -> list[Finish]:
        """Waits for as many ends of a request."""
        while len(found := self._ends(name)) < completions:
            self._seen += self._outputs.get(timeout=WAIT_S)
        return found

    def text(self, name: str) -> str:
        made = [token for o in self._seen if o.request_id == name for token in o.token_ids]
        return self._tokenizer.decode(made)

    def release(self) -> None:
        """Returns when the engine knows all that was compiled; that comes in the order of the requests."""
        self.guides.release()
        self.engine.submit(request("after", EVER))
        self.ends("after")

    def _ends(self, name: str) -> list[Finish]:
        return [o.finish for o in self._seen if o.request_id == name and o.finish is not None]

    def _on_step(self, step: Step) -> None:
        self.steps.append([row.sequence.request_id for row in step.rows])


@pytest.fixture
def bench(tokenizer: Tokenizer) -> Iterator[Bench]:
    made = Bench(tokenizer)
    yield made
    made.guides.release()
    made.engine.stop()


def test_others_are_served_meanwhile(bench: Bench) -> None:
    """A request that comes later is answered whole; then the constrained one is, as if it had waited for a row."""
    bench.submit_held(request("guided"))
    bench.engine.submit(request("free", None))
    (free,) = bench.ends("free")

    assert free.usage.completion_tokens == 9
    assert not any("guided" in names for names in bench.steps)
    assert bench.engine.load().waiting == 1

    bench.guides.release()
    (guided,) = bench.ends("guided")
    assert (guided.reason, bench.text("guided")) == (FinishReason.EOS, "never")


@pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.ABORTED])
def test_a_cancel_ends_it_at_once(bench: Bench, reason: FinishReason) -> None:
    """Each completion once, while the constraint is still compiled; none is ever computed."""
    bench.submit_held(request("guided", n=2))
    bench.engine.cancel("guided", reason)
    assert [finish.reason for finish in bench.ends("guided", 2)] == [reason] * 2
    assert bench.engine.wait_idle(WAIT_S)

    bench.release()
    assert len(bench.ends("guided", 2)) == 2
    assert not any("guided" in names for names in bench.steps)


def test_nobody_compiles_for_who_has_left(bench: Bench) -> None:
    """Else callers who ask and cancel could keep the compiler from others for any time."""
    left = Constraint("choice", ("left",))
    bench.submit_held(request("guided"))
    bench.engine.submit(request("left", left))
    bench.engine.cancel("left")
    bench.ends("left")

    bench.release()
    assert bench.guides.known(NEVER) is not None
    assert bench.guides.known(left) is None


def test_one_completion_may_leave(bench: Bench) -> None:
    """The other one is computed."""
    bench.submit_held(request("guided", n=2))
    bench.engine.cancel("guided", index=0)
    bench.ends("guided")
    bench.guides.release()
    left, stayed = bench.ends("guided", 2)
    assert (left.reason, stayed.reason) == (FinishReason.CANCELLED, FinishReason.EOS)
    assert bench.text("guided") == "never"


@pytest.mark.parametrize("limit", ["deadline", "time_limit"])
def test_its_time_passes(bench: Bench, limit: str) -> None:
    """It ends then, not when the constraint is compiled, and is never computed."""
    soon: dict[str, Any] = {limit: time.monotonic() + 0.05}
    bench.submit_held(request("guided", **soon))
    (finish,) = bench.ends("guided")
    assert finish.reason is FinishReason.TIME_LIMIT
    assert isinstance(finish.error, DeadlineExceeded) == (limit == "deadline")

    bench.release()
    assert len(bench.ends("guided")) == 1
    assert not any("guided" in names for names in bench.steps)


def test_its_id_may_be_taken_again(bench: Bench) -> None:
    """A later request of the same id follows its own constraint, not the one that is compiled before."""
    bench.submit_held(request("guided"))
    bench.engine.cancel("guided")
    bench.ends("guided")
    bench.engine.submit(request("guided", EVER))
    bench.guides.release()
    bench.ends("guided", 2)
    assert bench.text("guided") == "ever"


def test_a_drain_waits_for_it(bench: Bench) -> None:
    """It came before, so it is answered whole."""
    bench.submit_held(request("guided"))
    bench.engine.drain()
    assert not bench.engine.wait_idle(0)
    bench.guides.release()
    assert bench.engine.wait_idle(WAIT_S)
    (finish,) = bench.ends("guided")
    assert finish.reason is FinishReason.EOS


def test_a_stop_ends_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Without waiting for the compiler, and what it had not begun is no failure."""
    bench.submit_held(request("guided"))
    bench.engine.submit(request("behind it", EVER))
    bench.engine.stop()
    for name in ("guided", "behind it"):
        (finish,) = bench.ends(name)
        assert finish.reason is FinishReason.ABORTED
    assert not caplog.records


def test_a_wrong_one_ends_with_the_reason(bench: Bench) -> None:
    """Front ends have tried it before; who has not learns it as the end of each completion."""
    bench.guides.release()
    bench.engine.submit(request("wrong", Constraint("regex", ("(a",)), n=2))
    for finish in bench.ends("wrong", 2):
        assert finish.reason is FinishReason.ERROR
        assert isinstance(finish.error, InvalidRequest)
        assert "unclosed group" in str(finish.error)


def test_a_fault_is_logged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets the error id alone, and others are served."""

    class Panic(BaseException):
        """As the library's, which is no Exception."""

    def fail(*_: Any) -> Guide:
        raise Panic("secret")

    monkeypatch.setattr(bench.guides, "_compile", fail)
    with caplog.at_level(logging.ERROR):
        bench.engine.submit(request("guided"))
        (finish,) = bench.ends("guided")
    assert isinstance(finish.error, EngineFailure)
    assert finish.error.error_id in caplog.text
    assert "secret" not in str(finish.error)
    bench.engine.submit(request("free", None))
    assert bench.ends("free")[0].reason is FinishReason.MAX_TOKENS


def test_a_static_batch_does_not_count_it(tokenizer: Tokenizer) -> None:
    """A batch is full of those who can be computed."""
    bench = Bench(tokenizer, mode=Mode.STATIC, max_batch_size=2, max_wait_ms=60_000)
    bench.submit_held(request("guided"))
    bench.engine.submit(request("free", None))
    bench.guides.release()
    bench.ends("free")
    bench.ends("guided")
    bench.engine.stop()
    assert set(bench.steps[0]) == {"guided", "free"}

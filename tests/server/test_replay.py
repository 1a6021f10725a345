"""One engine after the other behind the same front end, over real sockets in one process."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mock_serving import WAIT_S, Gate, HeldGuides
from paceline.server.config import EngineConfig
from paceline.server.engine import Engine
from paceline.server.errors import DeadlineExceeded, EngineFailure, Unavailable
from paceline.server.guidance import Guides
from paceline.server.mock import MockRunner
from paceline.server.processes import flight_record
from paceline.server.processes.exchange import Exchange
from paceline.server.processes.flight_record import FlightRecord
from paceline.server.processes.quarantine import Quarantine
from paceline.server.processes.recorded import RecordedRunner
from paceline.server.processes.remote_engine import RemoteEngine
from paceline.server.processes.suspects import fingerprint
from paceline.server.request import (
    Constraint,
    FinishReason,
    Load,
    Output,
    Request,
    SamplingParams,
    StoppingParams,
)
from paceline.server.step import Step
from paceline.server.stream import Hub, OutputStream
from paceline.server.tokenizer import Tokenizer

DEAD = Unavailable("dead")


def request(name: str, max_tokens: int = 4, prompt: int = 3, **fields: Any) -> Request:
    stopping = StoppingParams(max_tokens)
    return Request(name, (prompt, 4), SamplingParams(), stopping, time.monotonic(), **fields)


class Life:
    """One engine with all that its process has."""

    def __init__(
        self,
        folder: Path,
        generation: int,
        deaths: Mapping[bytes, int],
        on_step: Callable[[Step], None],
        settings: dict[str, Any],
        guides: Guides | None = None,
    ) -> None:
        self.cleared: list[bytes] = []
        self.fatal = 0
        self.path = folder / f"record-{generation}"
        self.exchange = Exchange(folder, generation, Quarantine(deaths), self.cleared.append)
        config = EngineConfig.model_validate(settings)
        record = FlightRecord(self.path, config.max_batch_size, self.exchange.passenger)
        runner = RecordedRunner(
            MockRunner(on_step=on_step, vocab_size=400), record, self._note_fatal
        )
        self.engine = Engine(runner, config, self.exchange.deliver, guides=guides)
        self.engine.start()
        self.exchange.open(self.engine)

    def on_board(self) -> set[int]:
        """The first slots of the requests in flight."""
        return {each.first for each in flight_record.read(self.path).passengers}

    def _note_fatal(self) -> None:
        self.fatal += 1


class Front:
    """A front end and its engines, one after the other; the earlier ones stand still when they are left."""

    def __init__(self, folder: Path) -> None:
        self.remote = RemoteEngine(Hub(asyncio.get_running_loop()), folder, serial=1)
        self._folder = folder
        self._generations = itertools.count(1)
        self._lives: list[tuple[Life, Callable[[Step], None]]] = []

    def begin(
        self,
        on_step: Callable[[Step], None],
        deaths: Mapping[bytes, int] | None = None,
        guides: Guides | None = None,
        **settings: Any,
    ) -> Life:
        """A new engine."""
        generation = next(self._generations)
        life = Life(self._folder, generation, deaths or {}, on_step, settings, guides)
        self._lives.append((life, on_step))
        self.remote.connect(generation)
        return life

    async def until(self, condition: Callable[[Load], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition(await self.remote.load()):
                pass

    async def close(self) -> None:
        for life, on_step in self._lives:
            if isinstance(on_step, Gate):
                on_step.open()
            await asyncio.to_thread(life.engine.stop)
            life.exchange.finish()
            life.exchange.close()
        self.remote.close()


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """A front end without an engine yet."""
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        made = Front(Path(folder))
        yield made
        await made.close()


async def outputs(stream: OutputStream) -> list[Output]:
    async with asyncio.timeout(WAIT_S):
        return [output async for ready in stream for output in ready]


def tokens(got: list[Output]) -> list[int]:
    return [token for output in got for token in output.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  # a thread brings it about
            await asyncio.sleep(0)


async def test_what_has_not_started_is_replayed(front: Front) -> None:
    """The next engine gives waiting requests all their tokens; the one that was computed ends with the error."""
    life = front.begin(Gate(), max_batch_size=1)
    computed = await front.remote.start(request("a"))
    await until(lambda: len(life.on_board()) == 1)
    waiting = [await front.remote.start(request(str(i))) for i in range(3)]
    unanswered = asyncio.create_task(front.remote.start(request("new")))
    await asyncio.sleep(0)
    assert front.remote.gone(life.on_board(), DEAD) == 4
    with pytest.raises(Unavailable, match="dead"):
        await outputs(computed)
    with pytest.raises(Unavailable, match="dead"):
        await front.remote.start(request("later"))
    front.begin(open_gate(), max_batch_size=1, max_queue_requests=1)  # too small for newcomers
    waiting.append(await unanswered)
    expected = await outputs(await started_alone(front))
    for stream in waiting:
        assert tokens(await outputs(stream)) == tokens(expected)


def open_gate() -> Gate:
    gate = Gate()
    gate.open()
    return gate


async def started_alone(front: Front) -> OutputStream:
    """A request of the same prompt, once the four before it have left: the queue has room for one."""
    await front.until(lambda load: load.requests_finished == 4)
    return await front.remote.start(request("alone"))


async def test_constraints_and_prompt_scores_are_replayed(
    front: Front, tokenizer: Tokenizer
) -> None:
    """The next engine follows the constraint from its beginning, and scores the whole prompt."""

    def guides() -> Guides:
        return Guides(tokenizer, tokenizer.vocab_size, [2])

    life = front.begin(Gate(), max_batch_size=1, guides=guides())
    await front.remote.start(request("a"))
    await until(lambda: len(life.on_board()) == 1)
    only = Constraint("choice", ("never",))
    guided = await front.remote.start(request("b", 9, constraint=only, prompt_logprobs=1))
    assert front.remote.gone(life.on_board(), DEAD) == 1
    front.begin(open_gate(), guides=guides())
    got = await outputs(guided)
    assert tokenizer.decode(tokens(got), skip_special=False).startswith("never")
    assert got[-1].finish is not None and got[-1].finish.reason is FinishReason.EOS
    first, second = got[0].prompt_logprobs
    assert first is None and second is not None


async def test_what_was_being_compiled_is_replayed(front: Front, tokenizer: Tokenizer) -> None:
    """It has not started: the next engine compiles it anew."""
    held, free = HeldGuides(tokenizer), HeldGuides(tokenizer)
    free.release()
    life = front.begin(open_gate(), guides=held)
    only = Constraint("choice", ("never",))
    guided = await front.remote.start(request("a", 9, constraint=only))
    assert await asyncio.to_thread(held.begun.wait, WAIT_S)
    assert front.remote.gone(life.on_board(), DEAD) == 1
    front.begin(open_gate(), guides=free)
    assert tokenizer.decode(tokens(await outputs(guided))) == "never"
    held.release()


async def test_what_has_an_output_is_not_replayed(front: Front) -> None:
    """Though no step computed it when the engine died: its reader would see the beginning twice."""
    front.begin(Gate(steps=2))
    stream = await front.remote.start(request("a", 9))
    first = await anext(stream)
    assert front.remote.gone((), DEAD) == 0
    with pytest.raises(Unavailable, match="dead"):
        await outputs(stream)
    assert len(tokens(first)) >= 1


async def test_a_reader_that_left_is_not_replayed(front: Front) -> None:
    """Neither one that leaves before the death is noticed, nor one that leaves before the next engine."""
    life = front.begin(Gate(), max_batch_size=1)
    await front.remote.start(request("a"))
    await until(lambda: len(life.on_board()) == 1)
    before, after = [await front.remote.start(request(name)) for name in ("b", "c")]
    before.close()
    assert front.remote.gone(life.on_board(), DEAD) == 1
    after.close()
    front.begin(open_gate())
    assert (await front.remote.load()).requests_finished == 0
    assert len(await outputs(await front.remote.start(request("b")))) == 4


async def test_limits_run_from_the_arrival(front: Front) -> None:
    """What is past its limit when the next engine comes is ended by it, without a token."""
    life = front.begin(Gate(), max_batch_size=1)
    await front.remote.start(request("a"))
    await until(lambda: len(life.on_board()) == 1)
    soon = time.monotonic() + 0.05
    limited = await front.remote.start(request("b", time_limit=soon))
    late = await front.remote.start(request("c", deadline=soon))
    front.remote.gone(life.on_board(), DEAD)
    await until(lambda: time.monotonic() > soon)
    front.begin(open_gate())
    (end,) = await outputs(limited)
    assert end.finish is not None and end.finish.reason is FinishReason.TIME_LIMIT
    (end,) = await outputs(late)
    assert end.finish is not None and isinstance(end.finish.error, DeadlineExceeded)


async def test_nobody_is_replayed_for_ever(front: Front) -> None:
    """A request that engines die of before they compute it ends with the error after some of them."""
    front.begin(Gate())
    stream = await front.remote.start(request("a"))
    deaths = 0
    while front.remote.gone((), DEAD):
        deaths += 1
        front.begin(Gate())
    assert deaths == 5
    with pytest.raises(Unavailable, match="dead"):
        await outputs(stream)


class TestQuarantine:
    async def test_two_deaths_refuse(self, front: Front) -> None:
        """Under whatever id and seed; the caller learns an error id and nothing else."""
        life = front.begin(open_gate(), {fingerprint(request("a")): 2})
        again = request("b")
        with pytest.raises(EngineFailure, match=r"^internal error [0-9a-f]{12}$"):
            await front.remote.start(again)
        assert len(await outputs(await front.remote.start(request("c", prompt=9)))) == 4
        assert life.cleared == []

    async def test_suspects_go_in_one_at_a_time(self, front: Front) -> None:
        """Others go in beside them; who ends well is cleared, and with it whoever asks for the same."""
        suspects = [request(str(i), prompt=10 + i) for i in range(3)]
        gate = Gate()
        life = front.begin(gate, {fingerprint(each): 1 for each in suspects})
        starting = [asyncio.create_task(front.remote.start(each)) for each in suspects]
        same = asyncio.create_task(front.remote.start(request("same", prompt=10)))
        other = await front.remote.start(request("other", prompt=20))
        await front.remote.load()  # is answered after them
        assert [task.done() for task in (*starting, same)] == [True, False, False, False]
        gate.open()
        for task in (*starting, same):
            assert len(await outputs(await task)) == 4
        assert len(await outputs(other)) == 4
        await until(lambda: len(life.cleared) == 3)
        assert set(life.cleared) == {fingerprint(each) for each in suspects}

    async def test_other_engines_deaths_count(self, front: Front) -> None:
        """Who is held back is refused when another engine has died of it, and free once another one has cleared it."""
        inside, poison, innocent = suspects = [request(str(i), prompt=10 + i) for i in range(3)]
        gate = Gate()
        life = front.begin(gate)
        life.exchange.know({fingerprint(each): 1 for each in suspects})
        first = await front.remote.start(inside)
        refused = asyncio.create_task(front.remote.start(poison))
        await front.remote.load()
        assert not refused.done()
        life.exchange.know({fingerprint(poison): 2, fingerprint(innocent): 0})
        with pytest.raises(EngineFailure):
            await refused
        other = await front.remote.start(innocent)
        gate.open()
        assert len(await outputs(first)) == len(await outputs(other)) == 4

    async def test_who_left_uncomputed_is_no_better_known(self, front: Front) -> None:
        """A suspect that waited for a row and was cancelled stays one; it is cleared once it was computed."""
        suspect = request("suspect", prompt=10)
        gate = Gate()
        life = front.begin(gate, {fingerprint(suspect): 1}, max_batch_size=1)
        running = await front.remote.start(request("other"))
        await until(lambda: len(life.on_board()) == 1)
        (await front.remote.start(suspect)).close()
        await (
            front.remote.load()
        )  # is answered after the cancel: else the suspect may get its row first
        gate.open()
        assert len(await outputs(running)) == 4
        await front.until(lambda load: load.requests_finished == 2)
        await outputs(await front.remote.start(request("later")))  # by then its end was looked at
        assert life.cleared == []
        await outputs(await front.remote.start(replace(suspect, id="again")))
        await until(lambda: life.cleared == [fingerprint(suspect)])

    async def test_who_is_held_back_can_leave(self, front: Front) -> None:
        """By its deadline, by an abort, and by its reader; none of them is computed."""
        names = ("inside", "late", "aborted", "left")
        suspects = {name: request(name, prompt=10 + i) for i, name in enumerate(names)}
        deaths = {fingerprint(each): 1 for each in suspects.values()}
        gate = Gate()
        front.begin(gate, deaths, max_batch_size=1)
        soon = request("late", prompt=11, deadline=time.monotonic() + 0.05)
        inside = await front.remote.start(suspects["inside"])
        late, aborted, left = (
            asyncio.create_task(front.remote.start(each))
            for each in (soon, suspects["aborted"], suspects["left"])
        )
        await front.remote.load()
        assert await front.remote.abort(["aborted"]) == 1
        left.cancel()
        gate.open()
        (end,) = await outputs(await aborted)
        assert end.finish is not None and end.finish.reason is FinishReason.ABORTED
        last = (await outputs(await late))[-1]
        assert last.finish is not None
        assert len(await outputs(inside)) == 4
        await front.until(lambda load: load.requests_finished == 4)


class TestRecord:
    async def test_it_holds_what_is_computed(self, front: Front) -> None:
        """During a step its requests and the time are on record; between steps nothing is."""
        gate = Gate()
        life = front.begin(gate, max_batch_size=2)
        before = time.monotonic()
        mine = [request(str(i), prompt=10 + i) for i in range(3)]
        streams = [await front.remote.start(each) for each in mine]
        await until(lambda: bool(flight_record.read(life.path).passengers))
        flight = flight_record.read(life.path)
        assert flight.since is not None and before <= flight.since <= time.monotonic()
        assert {each.frontend for each in flight.passengers} == {1}
        assert {each.fingerprint for each in flight.passengers} <= {fingerprint(m) for m in mine}
        assert 1 <= len(flight.passengers) <= 2
        gate.open()
        for stream in streams:
            await outputs(stream)
        await until(lambda: flight_record.read(life.path) == flight_record.Flight())

    async def test_no_record_is_nobody(self, tmp_path: Path) -> None:
        """An engine that died before it had a record computed nothing."""
        assert flight_record.read(tmp_path / "none") == flight_record.Flight()

    async def test_an_engine_that_only_fails_is_given_up(self, front: Front) -> None:
        """Three failed steps in a row are fatal, while their requests are on record; one is not."""
        seen: list[int] = []
        life: Life

        def fail(step: Step) -> None:
            seen.append(len(life.on_board()))
            raise RuntimeError("the device is broken")

        life = front.begin(fail)
        for i in range(3):
            assert life.fatal == 0
            (end,) = await outputs(await front.remote.start(request(str(i))))
            assert end.finish is not None and isinstance(end.finish.error, EngineFailure)
        assert life.fatal == 1
        assert seen == [1, 1, 1]

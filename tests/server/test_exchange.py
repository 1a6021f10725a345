"""The engine's side and a front end's, over real sockets in one process."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from mock_serving import WAIT_S, Gate, HeldGuides
from paceline.server.config import EngineConfig
from paceline.server.engine import Engine
from paceline.server.errors import InvalidRequest, QueueFull, Unavailable
from paceline.server.mock import MockRunner
from paceline.server.processes import sockets
from paceline.server.processes.exchange import Exchange
from paceline.server.processes.link import Link
from paceline.server.processes.messages import decode_outputs
from paceline.server.processes.quarantine import Quarantine
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
    TokenLogprobs,
)
from paceline.server.step import Step
from paceline.server.stream import Hub, OutputStream
from paceline.server.tokenizer import Tokenizer


def request(name: str, max_tokens: int = 4, n: int = 1) -> Request:
    return Request(name, (3, 4), SamplingParams(), StoppingParams(max_tokens), 0.0, n)


class Pair:
    """An engine and two front ends."""

    def __init__(
        self,
        folder: Path,
        on_step: Callable[[Step], None],
        guides: HeldGuides | None = None,
        **settings: Any,
    ) -> None:
        self.exchange = Exchange(folder, 1, Quarantine({}), lambda _: None)
        config = EngineConfig.model_validate(settings)
        runner = MockRunner(on_step=on_step, vocab_size=400)
        self.engine = Engine(runner, config, self.exchange.deliver, guides=guides)
        self.engine.start()
        self.exchange.open(self.engine)
        loop = asyncio.get_running_loop()
        self.one, self.two = (RemoteEngine(Hub(loop), folder, serial=serial) for serial in (1, 2))
        self.one.connect(1)
        self.two.connect(1)

    async def until(self, condition: Callable[[Load], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition(await self.two.load()):
                pass

    async def close(self) -> None:
        await asyncio.to_thread(self.engine.stop)
        self.exchange.finish()
        self.exchange.close()
        self.one.close()
        self.two.close()


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Pair]]:
    """Makes pairs that are closed after the test."""
    made: list[Pair] = []
    with tempfile.TemporaryDirectory(
        prefix="pl-"
    ) as folder:  # pytest's names are too long for sockets

        def make_one(on_step: Callable[[Step], None] = lambda _: None, **settings: Any) -> Pair:
            made.append(Pair(Path(folder), on_step, **settings))
            return made[-1]

        yield make_one
        for pair in made:
            await pair.close()


async def outputs(stream: OutputStream) -> list[Output]:
    async with asyncio.timeout(WAIT_S):
        return [output async for ready in stream for output in ready]


async def test_outputs_reach_their_front_end(make: Callable[..., Pair]) -> None:
    """Each completion's tokens come to the one that asked, in order, with its end."""
    pair = make()
    one, two = await pair.one.start(request("a", 5, n=2)), await pair.two.start(request("b", 3))
    got = await outputs(one)
    for index in (0, 1):
        mine = [output for output in got if output.index == index]
        assert sum(len(output.token_ids) for output in mine) == 5
        assert [output.finish is not None for output in mine] == [False] * 4 + [True]
    assert {output.request_id for output in got} == {"a"}
    assert sum(len(output.token_ids) for output in await outputs(two)) == 3


async def test_a_step_is_one_message_for_each_front_end(
    make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many streams of a front end gained tokens in a step, one message carries them."""
    flushes: list[Link] = []
    flush = Link.flush

    def counted(link: Link, last: bool = False) -> None:
        flushes.append(link)
        flush(link, last)

    monkeypatch.setattr(Link, "flush", counted)
    gate = Gate(steps=1)
    pair = make(gate)
    streams = [await pair.one.start(request(str(i), 4)) for i in range(3)]
    gate.open()
    for stream in streams:
        assert sum(len(output.token_ids) for output in await outputs(stream)) == 4
    assert len(flushes) == (await pair.two.load()).steps < 12
    assert not pair.one._slots and not pair.one._running  # nothing is remembered of what ended


async def test_a_slots_outputs_keep_their_order() -> None:
    """A plain token behind one with log-probabilities stays behind it, up to the end of the message."""
    endpoint = "inproc://a-front-end"
    with sockets.make(zmq.PULL) as pull:
        pull.bind(endpoint)
        link = Link(endpoint, 1)
        logprobs = (TokenLogprobs(-0.5, ()),)
        for slot, token in [(1, Output("a", 0, (5,), logprobs)), (1, Output("a", 0, (6,)))]:
            link.add(slot, token)
        link.add(2, Output("b", 0, (7,)))
        link.flush()
        link.add(1, Output("a", 0, (8,)))
        link.flush()
        first, second = decode_outputs(pull.recv()), decode_outputs(pull.recv())
        link.close()
    assert [(other.slot, other.token_ids) for other in first.others] == [(1, (5,)), (1, (6,))]
    assert (first.slots, first.tokens) == ([2], [7])
    assert (second.slots, second.tokens, second.others) == ([1], [8], [])


async def test_an_error_loses_one_message_alone(caplog: pytest.LogCaptureFixture) -> None:
    """What came together with a message that cannot be handled is taken all the same."""
    taken: asyncio.Queue[bytes] = asyncio.Queue()

    def take(message: list[bytes]) -> None:
        (body,) = message
        taken.put_nowait(body)

    with sockets.make(zmq.PULL) as pull, sockets.make(zmq.PUSH) as push:
        pull.bind("inproc://an-inlet")  # such messages are there as soon as they are sent
        push.connect("inproc://an-inlet")
        for frames in ([b"a"], [b"two", b"frames"], [b"b"]):
            push.send_multipart(frames)
        inlet = sockets.Inlet(pull, take)
        async with asyncio.timeout(WAIT_S):
            assert [await taken.get(), await taken.get()] == [b"a", b"b"]
        inlet.close()
    assert "a message of another process was lost" in caplog.text


async def test_what_cannot_be_read_harms_nobody(make: Callable[..., Pair]) -> None:
    """Either side goes on with what follows a message that makes no sense."""
    pair = make()
    assert pair.one._control is not None
    pair.one._control.send(b"?")
    async with asyncio.timeout(WAIT_S):
        await pair.one.load()
        pair.exchange._inlet.send(b"frontend-1", b"?")
        await pair.one.load()
    assert len(await outputs(await pair.one.start(request("a", 4)))) == 4


async def test_refusals_come_back(make: Callable[..., Pair]) -> None:
    """A full queue, a taken id and an engine that drains are raised where the request was made."""
    gate = Gate()
    pair = make(gate, max_batch_size=1, max_queue_requests=1)
    running = await pair.one.start(request("a"))
    assert await asyncio.to_thread(gate.reached.wait, WAIT_S)
    waiting = await pair.two.start(request("b"))
    with pytest.raises(InvalidRequest):
        await pair.two.start(request("a"))
    with pytest.raises(QueueFull) as caught:
        await pair.one.start(request("c"))
    assert caught.value.retry_after_s == 1.0
    pair.engine.drain()
    with pytest.raises(Unavailable, match="shutting down"):
        await pair.one.start(request("c"))
    gate.open()
    assert len(await outputs(running)) == len(await outputs(waiting)) == 4
    assert not pair.one._slots and not pair.two._slots


async def test_leaving_before_the_answer_cancels(make: Callable[..., Pair]) -> None:
    """A caller that leaves while its request is on its way does not leave it running."""
    pair = make()
    starting = asyncio.create_task(pair.one.start(request("a", 2000)))
    await asyncio.sleep(0)  # it is sent, and no answer is read yet
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await pair.until(lambda load: load.requests_finished == 1)
    again = await pair.one.start(request("a", 2))
    assert len(await outputs(again)) == 2


async def test_abort_counts_and_ends_requests_of_others(make: Callable[..., Pair]) -> None:
    """Ids of another front end are found, unknown ones are not."""
    gate = Gate(steps=1)
    pair = make(gate)
    stream = await pair.one.start(request("a", 2000))
    assert await pair.two.abort(["a", "?"]) == 1
    gate.open()
    last = (await outputs(stream))[-1]
    assert last.finish is not None and last.finish.reason is FinishReason.ABORTED
    assert await pair.two.abort(None) == 0


async def test_nobody_waits_while_a_constraint_is_compiled(
    make: Callable[..., Pair], tokenizer: Tokenizer
) -> None:
    """Other requests are taken and answered meanwhile, and so is an abort of the one that waits for it."""
    guides = HeldGuides(tokenizer)
    pair = make(guides=guides)
    only = Constraint("choice", ("never",))
    guided = await pair.one.start(replace(request("guided", 9), constraint=only))
    assert await asyncio.to_thread(guides.begun.wait, WAIT_S)
    assert len(await outputs(await pair.two.start(request("free")))) == 4
    assert await pair.two.abort(["guided"]) == 1
    (end,) = await outputs(guided)
    assert end.finish is not None and end.finish.reason is FinishReason.ABORTED
    guides.release()


async def test_a_front_end_that_is_gone_leaves_nothing(make: Callable[..., Pair]) -> None:
    """Its requests are cancelled, its ids are free, and what it still says is not heard."""
    gate = Gate(steps=1)
    pair = make(gate)
    await pair.one.start(request("a", 2000))
    kept = await pair.two.start(request("b", 6))
    pair.exchange.forget(1)
    gate.open()
    await pair.until(lambda load: load.requests_finished >= 1 and load.running <= 1)
    assert len(await outputs(kept)) == 6
    assert len(await outputs(await pair.two.start(request("a", 2)))) == 2
    unheard = asyncio.create_task(pair.one.load())
    await pair.two.load()
    assert not unheard.done()
    unheard.cancel()


async def test_held_requests_go_in_when_nobody_suspects_them(make: Callable[..., Pair]) -> None:
    """What waits behind a suspect, and is cleared elsewhere, does not wait for that one's end."""
    gate = Gate()
    pair = make(gate)
    suspects = request("a"), request("b", 5)
    pair.exchange.know(dict.fromkeys(map(fingerprint, suspects), 1))
    first = await pair.one.start(suspects[0])
    starting = asyncio.create_task(pair.one.start(suspects[1]))
    await asyncio.sleep(0)
    await pair.one.load()  # answered after what was asked for before
    assert not starting.done()
    pair.exchange.know({fingerprint(suspects[1]): 0})
    async with asyncio.timeout(WAIT_S):
        second = await starting
    gate.open()
    assert [len(await outputs(stream)) for stream in (first, second)] == [4, 5]


async def test_an_engine_that_is_gone_ends_everything(make: Callable[..., Pair]) -> None:
    """Streams, questions and new requests all end with the error."""
    gate = Gate()
    pair = make(gate)
    stream = await pair.one.start(request("a"))
    question = asyncio.create_task(pair.one.load())
    await asyncio.sleep(0)
    pair.one.fail(Unavailable("gone"))
    for work in (outputs(stream), question, pair.one.start(request("b")), pair.one.abort(None)):
        with pytest.raises(Unavailable, match="gone"):
            await work
    gate.open()


async def test_the_last_message_comes_last(make: Callable[..., Pair]) -> None:
    """Whoever has seen the end has seen every output before it."""
    gate = Gate(steps=3)
    pair = make(gate)
    stream = await pair.one.start(request("a", 2000))
    stopping = asyncio.create_task(asyncio.to_thread(pair.engine.stop))
    await pair.until(lambda load: load.draining)
    gate.open()
    await stopping
    pair.exchange.finish()
    async with asyncio.timeout(WAIT_S):
        await pair.one.ended.wait()
    last = (await outputs(stream))[-1]
    assert last.finish is not None and last.finish.reason is FinishReason.ABORTED

"""The hand-off from the engine's thread to asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest

from paceline.server.errors import InvalidRequest, Unavailable
from paceline.server.request import Finish, FinishReason, Output, Timings, Usage
from paceline.server.stream import Hub, OutputStream

END = Finish(FinishReason.MAX_TOKENS, Usage(1, 1), Timings())


def output(request_id: str, index: int = 0, token: int = 5, finish: Finish | None = None) -> Output:
    return Output(request_id, index, (token,), finish=finish)


class Cancels(list[str]):
    """Notes which requests were cancelled."""

    def __call__(self, request_id: str) -> None:
        self.append(request_id)


@pytest.fixture
async def hub() -> Hub:
    return Hub(asyncio.get_running_loop())


async def collect(stream: OutputStream) -> list[list[Output]]:
    return [ready async for ready in stream]


async def test_outputs_of_a_step_reach_their_streams(hub: Hub) -> None:
    """One delivery from another thread is shared out by id, in order; streams end with their completions."""
    cancels = Cancels()
    one, two = hub.open("one", 1, cancels), hub.open("two", 2, cancels)
    steps = [
        [output("one", token=1), output("two", 0, 2)],
        [output("one", token=3, finish=END), output("two", 1, 4, END), output("two", 0, 5, END)],
    ]

    def run_engine() -> None:
        for step in steps:
            hub.deliver(step)

    thread = threading.Thread(target=run_engine)
    thread.start()
    with one, two:
        first, second = await asyncio.gather(collect(one), collect(two))
    thread.join()
    assert [o.token_ids for ready in first for o in ready] == [(1,), (3,)]
    assert [o.token_ids for ready in second for o in ready] == [(2,), (4,), (5,)]
    assert cancels == []
    assert hub.request_ids == ()


async def test_a_reader_gets_everything_ready_as_one_list(hub: Hub) -> None:
    """What gathered while the reader was busy comes at once."""
    stream = hub.open("one", 1, Cancels())
    hub.deliver([output("one", token=1)])
    hub.deliver([output("one", token=2)])
    hub.deliver([output("one", token=3, finish=END)])
    await asyncio.sleep(0)
    (ready,) = await collect(stream)
    assert [o.token_ids[0] for o in ready] == [1, 2, 3]


async def test_leaving_early_cancels_exactly_once(hub: Hub) -> None:
    """However often a stream is left, the engine hears of it once."""
    cancels = Cancels()
    with hub.open("one", 1, cancels) as stream:
        stream.close()
    stream.close()
    assert cancels == ["one"]


async def test_a_cancelled_reader_cancels_the_request(hub: Hub) -> None:
    """Cancelling the task that reads is leaving."""
    cancels = Cancels()

    async def read() -> None:
        with hub.open("one", 1, cancels) as stream:
            await collect(stream)

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancels == ["one"]


async def test_a_finished_request_is_not_cancelled(hub: Hub) -> None:
    """Leaving after the last finish says nothing to the engine, read or not."""
    cancels = Cancels()
    with hub.open("one", 1, cancels):
        hub.deliver([output("one", finish=END)])
        await asyncio.sleep(0)
    assert cancels == []


async def test_an_id_stays_taken_until_the_engine_is_done_with_it(hub: Hub) -> None:
    """Late outputs of a left request cannot reach a new one of the same id."""
    hub.open("one", 1, Cancels()).close()
    with pytest.raises(InvalidRequest):
        hub.open("one", 1, Cancels())
    hub.deliver([output("one", finish=END)])
    await asyncio.sleep(0)
    hub.open("one", 1, Cancels())


async def test_a_refused_request_leaves_no_trace(hub: Hub) -> None:
    """After `forget` the id is free, and nothing was cancelled."""
    cancels = Cancels()
    hub.forget(hub.open("one", 1, cancels))
    assert "one" not in hub
    assert cancels == []


async def test_failing_all_ends_every_reader(hub: Hub) -> None:
    """Readers get what was ready, then the error."""
    stream = hub.open("one", 1, Cancels())
    hub.deliver([output("one")])
    await asyncio.sleep(0)
    hub.fail_all(Unavailable("gone"))
    assert len(await anext(stream)) == 1
    with pytest.raises(Unavailable):
        await anext(stream)
    assert hub.request_ids == ()


def test_delivering_after_the_loop_ended_is_harmless() -> None:
    """The engine's last outputs may come when nobody is there any more."""
    loop = asyncio.new_event_loop()
    hub = Hub(loop)
    loop.close()
    hub.deliver([output("one")])

"""Deadlines, time limits, cancels and full queues, over real gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mock_serving import WAIT_S, Gate, Served, generation, paced, serving
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb

ENDLESS = 7000  # tokens: at the pace below they would take minutes


def slow(tokenizer: Tokenizer) -> MockRunner:
    """A model that makes a token every five milliseconds, for longer than any test."""
    return MockRunner(
        vocab_size=tokenizer.vocab_size, max_context_tokens=8000, on_step=paced(0.005)
    )


def unary(served: Served, message: pb.Generation, timeout: float | None = None) -> Any:
    return served.stub.Generate(pb.GenerateRequest(generation=message), timeout=timeout)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_deadline_while_decoding_frees_pages(tokenizer: Tokenizer) -> None:
    """The call ends with DEADLINE_EXCEEDED, its pages are free, and work stops."""
    async with serving(tokenizer, slow(tokenizer)) as served:
        error = await failure(unary(served, generation(max_tokens=ENDLESS), timeout=0.6))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        load = await served.idle()
        assert not served.in_flight
        assert 0 < load.output_tokens < ENDLESS


async def test_deadline_in_the_queue(tokenizer: Tokenizer) -> None:
    """A request that never got its turn leaves the queue at its deadline, while the running one goes on."""
    async with serving(tokenizer, slow(tokenizer), mode="sequential") as served:
        running = unary(served, generation(max_tokens=ENDLESS, request_id="runs"))
        await served.until(lambda load: load.running == 1)
        error = await failure(unary(served, generation(), timeout=0.2))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        load = await served.until(lambda load: load.waiting == 0)
        assert load.running == 1
        running.cancel()
        await served.idle()


async def test_deadline_holds_for_a_stream(tokenizer: Tokenizer) -> None:
    """A stream gives what it can and then DEADLINE_EXCEEDED."""
    async with serving(tokenizer, slow(tokenizer)) as served:
        call = served.stub.GenerateStream(
            pb.GenerateStreamRequest(generation=generation(max_tokens=ENDLESS)), timeout=0.6
        )
        got = 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for message in call:
                got += message.num_tokens
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert got > 0
        await served.idle()


async def test_time_limit_ends_in_peace(tokenizer: Tokenizer) -> None:
    """`time_limit_ms` gives OK, the text so far and TIME_LIMIT; running or still in the queue."""
    async with serving(tokenizer, slow(tokenizer), mode="sequential") as served:
        first = unary(served, generation(max_tokens=ENDLESS, time_limit_ms=1000))
        await served.until(lambda load: load.running == 1)
        queued = await unary(served, generation(time_limit_ms=100))
        (nothing,) = queued.result.completions
        assert nothing.finish.reason == pb.FINISH_REASON_TIME_LIMIT
        assert nothing.num_tokens == 0
        (some,) = (await first).result.completions
        assert some.finish.reason == pb.FINISH_REASON_TIME_LIMIT
        assert 0 < some.num_tokens < ENDLESS
        assert some.text
        await served.idle()


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancel_frees_pages(tokenizer: Tokenizer, streaming: bool) -> None:
    """A client that cancels stops the work for it."""
    async with serving(tokenizer, slow(tokenizer)) as served:
        message = generation(max_tokens=ENDLESS, sampling=pb.Sampling(n=3))
        if streaming:
            call = served.stub.GenerateStream(pb.GenerateStreamRequest(generation=message))
        else:
            call = unary(served, message)
        await served.until(lambda load: load.running == 3 and load.pages_used > 0)
        call.cancel()
        load = await served.idle()
        assert load.output_tokens < 3 * ENDLESS
        # The metrics tell of it, once for each completion.
        async with asyncio.timeout(WAIT_S):
            while not (finished := served.app._console.metrics.tally.finished):
                await served.load()
        assert finished == {"cancelled": 3}


async def test_a_client_that_vanishes_frees_pages(tokenizer: Tokenizer) -> None:
    """Closing the connection, even without ever reading, is a cancel."""
    async with serving(tokenizer, slow(tokenizer)) as served:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.app.port}") as channel:
            stub: Any = type(served.stub)(channel)
            call = stub.GenerateStream(
                pb.GenerateStreamRequest(generation=generation(max_tokens=ENDLESS))
            )
            await served.until(lambda load: load.running == 1)
        load = await served.idle()
        assert load.output_tokens < ENDLESS
        assert call.done()


async def test_cancelled_batch_cancels_every_item(tokenizer: Tokenizer) -> None:
    """Leaving a batch stops all its items."""
    async with serving(tokenizer, slow(tokenizer)) as served:
        items = [generation(max_tokens=ENDLESS) for _ in range(4)]
        call = served.stub.GenerateBatch(pb.GenerateBatchRequest(generations=items))
        await served.until(lambda load: load.running == 4)
        call.cancel()
        await served.idle()


async def test_a_slow_reader_delays_nobody(tokenizer: Tokenizer) -> None:
    """While one stream is never read, another comes to its end."""
    async with serving(tokenizer) as served:
        unread = served.stub.GenerateStream(
            pb.GenerateStreamRequest(generation=generation(max_tokens=1500))
        )
        done = await unary(served, generation(max_tokens=1500))
        assert done.result.usage.completion_tokens == 1500
        tokens = sum([message.num_tokens async for message in unread])
        assert tokens == 1500


async def test_full_queue_says_when_to_come_back(tokenizer: Tokenizer) -> None:
    """Over the bound: RESOURCE_EXHAUSTED with RetryInfo and gRPC's own pushback; who waits is unharmed."""
    gate = Gate()
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner, mode="sequential", max_queue_requests=2) as served:
        first = asyncio.ensure_future(unary(served, generation()))
        await served.until(lambda load: len(served.in_flight) == 1)
        # One runs and has left the queue; two may wait.
        others = [asyncio.ensure_future(unary(served, generation())) for _ in range(2)]
        await served.until(lambda load: len(served.in_flight) == 3)
        error = await failure(unary(served, generation()))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(error)
        assert status is not None
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() > 0
        trailers = dict(error.trailing_metadata() or ())
        assert trailers["grpc-retry-pushback-ms"] == str(retry.retry_delay.ToMilliseconds())
        gate.open()
        for answer in await asyncio.gather(first, *others):
            assert answer.result.usage.completion_tokens == 8
        assert (await served.load()).requests_rejected == 1


async def test_batch_over_the_queue_fails_by_item(tokenizer: Tokenizer) -> None:
    """Items that find the queue full get its error; the others are served."""
    gate = Gate()
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner, mode="sequential", max_queue_requests=3) as served:
        items = [generation() for _ in range(6)]
        call = asyncio.ensure_future(
            served.stub.GenerateBatch(pb.GenerateBatchRequest(generations=items))
        )
        await served.until(lambda load: load.requests_rejected > 0)
        gate.open()
        outcomes = [item.WhichOneof("outcome") for item in (await call).items]
        assert outcomes.count("result") >= 3
        errors = [item.error for item in (await call).items if item.HasField("error")]
        assert {e.code for e in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
        assert all(e.retry_after_ms > 0 for e in errors)

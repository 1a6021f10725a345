"""A full server, seen by the real client: who is refused, who passes, who comes back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mock_serving import WAIT_S, Gate, Served, generation, serving
from paceline.client import AsyncClient, QueueFull
from paceline.server.mock import MockRunner
from paceline.server.step import Step
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb


@contextlib.asynccontextmanager
async def full(tokenizer: Tokenizer, gate: Gate) -> AsyncIterator[Served]:
    """A server that computes nothing until the gate opens; one request runs and one waits, which is all it takes."""
    joined = threading.Event()

    def on_step(step: Step) -> None:
        joined.set()
        gate(step)

    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=on_step)
    async with serving(tokenizer, runner, mode="sequential", max_queue_requests=1) as served:
        first = _sent(served, "runs")
        assert await asyncio.to_thread(joined.wait, WAIT_S)
        second = _sent(served, "waits")
        await served.until(lambda load: len(served.in_flight) == 2)
        try:
            yield served
        finally:
            gate.open()
            await asyncio.gather(first, second)


def _sent(served: Served, name: str) -> asyncio.Future[pb.GenerateResponse]:
    request = pb.GenerateRequest(generation=generation(request_id=name))
    call: asyncio.Future[pb.GenerateResponse] = asyncio.ensure_future(served.stub.Generate(request))
    return call


async def test_questions_pass_when_the_queue_is_full(tokenizer: Tokenizer) -> None:
    """Health, load, model, tokens and abort are answered while every generation is refused."""
    async with full(tokenizer, gate := Gate()) as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        async with AsyncClient(f"127.0.0.1:{served.app.port}", attempts=1) as client:
            with pytest.raises(QueueFull):
                await client.generate("x")
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert (await client.load()).requests_rejected > 0
            assert (await client.model_info()).name == "mock"
            assert (await client.tokenize("x")).ids
            assert await client.abort("waits") == 1
            gate.open()
            await served.idle()


async def test_the_client_comes_back_when_it_was_told_to(tokenizer: Tokenizer) -> None:
    """The real client waits as the server says, without a word to its caller, and is answered."""
    async with (
        full(tokenizer, gate := Gate()) as served,
        AsyncClient(f"127.0.0.1:{served.app.port}", timeout_s=WAIT_S) as client,
    ):
        rejected = (await served.load()).requests_rejected
        call = asyncio.ensure_future(client.generate("x", max_tokens=3))
        await served.until(lambda load: load.requests_rejected > rejected)
        gate.open()
        assert (await call).usage.completion_tokens == 3


async def test_no_retry_is_asked_for_that_the_deadline_forbids(tokenizer: Tokenizer) -> None:
    """Whoever has less time than the advised delay is told at once, retries or not."""
    async with (
        full(tokenizer, Gate()) as served,
        AsyncClient(f"127.0.0.1:{served.app.port}", attempts=5) as client,
    ):
        rejected = (await served.load()).requests_rejected
        # The queue never moved: the advice is a second.
        with pytest.raises(QueueFull) as caught:
            await client.generate("x", timeout_s=0.9)
        assert caught.value.retry_after_s is not None
        assert (await served.load()).requests_rejected == rejected + 1


async def test_an_item_of_a_batch_is_told_when_to_come_back(tokenizer: Tokenizer) -> None:
    """The client's error of an item has the delay, as that of a call has."""
    async with (
        full(tokenizer, Gate()) as served,
        AsyncClient(f"127.0.0.1:{served.app.port}") as client,
    ):
        (error,) = await client.batch(["x"])
        assert isinstance(error, QueueFull)
        assert error.retry_after_s is not None


async def test_a_deadline_that_cannot_be_met_costs_nothing(tokenizer: Tokenizer) -> None:
    """`--admission deadline` refuses on arrival; without a deadline the same request may wait."""
    gate = Gate()
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    settings = {"mode": "sequential", "admission": "deadline"}
    async with serving(tokenizer, runner, **settings) as served:
        request = pb.GenerateRequest(generation=generation())
        calls = [asyncio.ensure_future(served.stub.Generate(request)) for _ in range(3)]
        await served.until(lambda load: len(served.in_flight) == 3)
        # What the engine would have seen after a minute in which nobody got his turn.
        served.app.engine._door._rate.passed(60.0)  # type: ignore[union-attr]
        steps = (await served.load()).steps
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Generate(request, timeout=10)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "-1"
        assert (await served.load()).steps == steps
        calls.append(asyncio.ensure_future(served.stub.Generate(request)))
        await served.until(lambda load: len(served.in_flight) == 4)
        gate.open()
        await asyncio.gather(*calls)

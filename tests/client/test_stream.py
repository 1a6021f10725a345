"""Streams: chunks come as they are made, and leaving a stream stops the work."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from paceline.client import (
    AsyncClient,
    Cancelled,
    Client,
    Finish,
    FinishReason,
    ServerError,
    Usage,
)
from paceline.v1 import generation_pb2 as pb
from scripted_server import WAIT_S, ScriptedServer, delta, ending, fail, header

Messages = Iterator[pb.GenerateStreamResponse]


class Paced:
    """A stream that sends its second token only when the test says so."""

    def __init__(self, server: ScriptedServer) -> None:
        self.go_on = threading.Event()
        server.handlers["GenerateStream"] = self.handle

    def handle(self, request: object, context: grpc.ServicerContext) -> Messages:
        context.add_callback(self.go_on.set)  # a call that ended waits for nothing
        yield header()
        yield delta("one", 0)
        self.go_on.wait(WAIT_S)
        yield delta(" two", 1)
        yield ending(2)


@pytest.fixture
def paced(server: ScriptedServer) -> Paced:
    return Paced(server)


class TestSync:
    def test_chunks_arrive_before_the_next_is_made(
        self, server: ScriptedServer, paced: Paced
    ) -> None:
        """The first chunk is here while the server still waits to make the second."""
        with Client(server.target) as client, client.stream("x") as stream:
            chunks = iter(stream)
            first = next(chunks)
            text_so_far, finish_so_far = stream.text, stream.finish
            paced.go_on.set()
            rest = list(chunks)

        assert (first.text, first.num_tokens, first.offset) == ("one", 1, 0)
        assert (text_so_far, finish_so_far) == ("one", None)
        assert [chunk.text for chunk in rest] == [" two", ""]
        assert rest[-1].finish == Finish(FinishReason.MAX_TOKENS)

    def test_the_stream_tells_header_and_summary(
        self, server: ScriptedServer, paced: Paced
    ) -> None:
        """Request id, seed, usage and timings are the stream's, not a chunk's."""
        paced.go_on.set()

        with Client(server.target) as client:
            stream = client.stream("x")
            for _chunk in stream:
                pass

        assert (stream.request_id, stream.model, stream.seed) == ("r1", "scripted", 7)
        assert stream.prompt_tokens == 3
        assert stream.text == "one two"
        assert stream.finish == Finish(FinishReason.MAX_TOKENS)
        assert stream.usage == Usage(3, 2, 0)
        assert stream.timings is not None
        assert stream.timings.ttft_ms == 2.0

    def test_completions_are_kept_apart(self, server: ScriptedServer) -> None:
        """Texts of several completions gather under their own index."""

        def handler(request: object, context: object) -> Messages:
            yield header()
            yield delta("a", 0, index=0)
            yield delta("x", 0, index=1)
            yield delta("b", 1, index=0)

        server.handlers["GenerateStream"] = handler

        with Client(server.target) as client:
            stream = client.stream("x", n=2)
            indices = [chunk.index for chunk in stream]

        assert indices == [0, 1, 0]
        assert stream.texts == {0: "ab", 1: "x"}

    def test_breaking_out_cancels_the_call(self, server: ScriptedServer, paced: Paced) -> None:
        """A loop that is left ends the call at the server, though the stream is still referred to."""
        with Client(server.target) as client:
            stream = client.stream("x")
            for _chunk in stream:
                break

            assert server.left.wait(WAIT_S)
            assert stream.text == "one"

    def test_leaving_the_with_block_cancels_the_call(
        self, server: ScriptedServer, paced: Paced
    ) -> None:
        """The end of a `with` block ends the call, though an iterator over it still lives."""
        with Client(server.target) as client:
            with client.stream("x") as stream:
                chunks = iter(stream)
                next(chunks)

            assert server.left.wait(WAIT_S)

    def test_close_from_another_thread_ends_the_reader(
        self, server: ScriptedServer, paced: Paced
    ) -> None:
        """A reader that waits is told that its stream was cancelled."""
        with Client(server.target) as client:
            stream = client.stream("x")
            chunks = iter(stream)
            next(chunks)
            threading.Thread(target=stream.close).start()

            with pytest.raises(Cancelled):
                next(chunks)

    def test_an_error_in_the_middle_keeps_what_came(self, server: ScriptedServer) -> None:
        """Text that arrived before a failure stays readable."""

        def handler(request: object, context: grpc.ServicerContext) -> Messages:
            yield header()
            yield delta("half")
            fail(context, grpc.StatusCode.INTERNAL, "internal error 1234")

        server.handlers["GenerateStream"] = handler

        with Client(server.target) as client:
            stream = client.stream("x")
            with pytest.raises(ServerError, match="1234"):
                list(stream)

        assert stream.text == "half"
        assert len(server.calls) == 1  # not retried: the answer had begun


class TestAsync:
    async def test_chunks_arrive_before_the_next_is_made(
        self, server: ScriptedServer, paced: Paced
    ) -> None:
        """The asyncio stream does not wait for more than it has."""
        async with AsyncClient(server.target) as client, client.stream("x") as stream:
            chunks = aiter(stream)
            first = await anext(chunks)
            paced.go_on.set()
            rest = [chunk async for chunk in chunks]

        assert first.text == "one"
        assert [chunk.text for chunk in rest] == [" two", ""]
        assert (stream.text, stream.usage) == ("one two", Usage(3, 2, 0))

    async def test_breaking_out_cancels_the_call(
        self, server: ScriptedServer, paced: Paced
    ) -> None:
        """A loop that is left ends the call at the server."""
        async with AsyncClient(server.target) as client:
            stream = client.stream("x")
            async for _chunk in stream:
                break
            gc.collect()

            assert await asyncio.to_thread(server.left.wait, WAIT_S)

    async def test_aclose_ends_the_reader(self, server: ScriptedServer, paced: Paced) -> None:
        """A reader that waits gets `Cancelled`, not a cancelled task, when its stream is closed."""
        async with AsyncClient(server.target) as client:
            stream = client.stream("x")
            chunks = aiter(stream)
            await anext(chunks)
            closer = asyncio.create_task(stream.aclose())

            with pytest.raises(Cancelled):
                await anext(chunks)
            await closer

    async def test_a_cancelled_task_cancels_the_call(
        self, server: ScriptedServer, paced: Paced
    ) -> None:
        """Cancelling the reading task stays a cancellation, and the server hears of it."""
        first = asyncio.Event()

        async def read(client: AsyncClient) -> None:
            async for _chunk in client.stream("x"):
                first.set()

        async with AsyncClient(server.target) as client:
            task = asyncio.create_task(read(client))
            await first.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            assert await asyncio.to_thread(server.left.wait, WAIT_S)

    async def test_a_cancelled_unary_call_reaches_the_server(self, server: ScriptedServer) -> None:
        """A cancelled `generate` stops at the server too."""
        arrived = threading.Event()

        def handler(request: object, context: grpc.ServicerContext) -> Any:
            arrived.set()
            server.left.wait(WAIT_S)
            return pb.GenerateResponse()

        server.handlers["Generate"] = handler

        async with AsyncClient(server.target) as client:
            task = asyncio.create_task(client.generate("x"))
            await asyncio.to_thread(arrived.wait, WAIT_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            assert await asyncio.to_thread(server.left.wait, WAIT_S)

    def test_one_client_may_be_made_outside_a_loop(
        self, server: ScriptedServer, paced: Paced
    ) -> None:
        """The connection belongs to the loop of the first call, not of the constructor."""
        paced.go_on.set()
        client = AsyncClient(server.target)

        async def read() -> str:
            async with client:
                stream = client.stream("x")
                async for _chunk in stream:
                    pass
            return stream.text

        assert asyncio.run(read()) == "one two"

"""A server without a port, as Ray Serve's replicas hold one: the same answers, statuses and protection."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from mock_serving import generation, paced
from paceline.server.app import App
from paceline.server.bearer import digest_of
from paceline.server.config import ServeConfig
from paceline.server.loader import Loaded
from paceline.server.local_server import Ended, LocalCall, LocalListener, LocalServer, Metadata
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb

SERVICE = "/paceline.v1.GenerationService"


@contextlib.asynccontextmanager
async def serving(tokenizer: Tokenizer, **settings: Any) -> AsyncIterator[tuple[App, LocalServer]]:
    server = LocalServer()
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=paced(0.001))
    config = ServeConfig.model_validate({"port": 0, "metrics_port": None, **settings})
    app = App(config, lambda _: Loaded(runner, tokenizer), functools.partial(LocalListener, server))
    try:
        await app.bind()
        await app.load()
        yield app, server
    finally:
        await app.close()


def call(metadata: Metadata = ()) -> LocalCall:
    return LocalCall(metadata, "test")


async def test_it_answers_as_one_with_a_port(tokenizer: Tokenizer) -> None:
    """A stream is whole from header to summary, and health says SERVING."""
    request = pb.GenerateStreamRequest(generation=generation(max_tokens=5))
    async with serving(tokenizer) as (_, server):
        messages = [
            message async for message in server.stream(f"{SERVICE}/GenerateStream", request, call())
        ]
        health = await server.unary(
            "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(), call()
        )

    assert messages[0].HasField("header")
    assert sum(message.num_tokens for message in messages) == 5
    assert messages[-1].summary.usage.completion_tokens == 5
    assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_errors_keep_their_details(tokenizer: Tokenizer) -> None:
    """A bad field ends unary call and stream with INVALID_ARGUMENT and the field's path among the trailers."""
    bad = generation(sampling=pb.Sampling(top_p=2))
    async with serving(tokenizer) as (_, server):
        with pytest.raises(Ended) as unary:
            await server.unary(f"{SERVICE}/Generate", pb.GenerateRequest(generation=bad), call())
        with pytest.raises(Ended) as stream:
            request = pb.GenerateStreamRequest(generation=bad)
            await anext(server.stream(f"{SERVICE}/GenerateStream", request, call()))

    for ended in (unary.value, stream.value):
        assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
        details = dict(ended.trailers)["grpc-status-details-bin"]
        assert isinstance(details, bytes)
        (packed,) = status_pb2.Status.FromString(details).details
        violations = error_details_pb2.BadRequest.FromString(packed.value).field_violations
        assert [v.field for v in violations] == ["generation.sampling.top_p"]


async def test_a_closed_stream_is_a_cancel(tokenizer: Tokenizer) -> None:
    """Whoever closes it early gives its pages back."""
    request = pb.GenerateStreamRequest(generation=generation(max_tokens=100))
    async with serving(tokenizer) as (app, server):
        stream = server.stream(f"{SERVICE}/GenerateStream", request, call())
        while not (await anext(stream)).num_tokens:
            pass
        await stream.aclose()
        engine = app.engine
        assert engine is not None
        assert await app.finished(60)
        assert engine.load().pages_used == 0


async def test_tokens_protect_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Without a token no method answers, known or not; with one, it does."""
    file = tmp_path / "tokens"
    file.write_text(f"someone:{digest_of('secret').hex()}\n")
    async with serving(tokenizer, tokens=str(file)) as (_, server):
        for method in ("GetLoad", "NoSuchMethod"):
            with pytest.raises(Ended) as refused:
                await server.unary(f"{SERVICE}/{method}", pb.GetLoadRequest(), call())
            assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
        shown = call((("authorization", "Bearer secret"),))
        assert not (await server.unary(f"{SERVICE}/GetLoad", pb.GetLoadRequest(), shown)).running

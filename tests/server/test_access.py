"""Bearer tokens and their limits, at a real server: who is answered, who is refused, and how."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from mock_serving import Gate, Served, generation, serving
from paceline.server.bearer import digest_of
from paceline.server.mock import MockRunner
from paceline.server.rpc import REQUESTS, SERVICE
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
STREAMING = {"GenerateStream"}


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


SECRET = bearer("secret")


def write(path: Path, **tokens: str) -> None:
    """A file of tokens; the value is the token, and options after it."""
    lines = []
    for name, text in tokens.items():
        token, *options = text.split()
        lines.append(" ".join([f"{name}:{digest_of(token).hex()}", *options]))
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines))
    os.replace(new, path)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    write(path, alice="secret", root="master admin")
    return path


async def status(call: Any) -> grpc.StatusCode:
    """How a call ends, unary or streaming."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def calls(served: Served, metadata: Any) -> dict[str, Any]:
    """Every method of every service, called."""
    methods: dict[str, Any] = {
        name: getattr(served.stub, name)(request(), metadata=metadata)
        for name, request in REQUESTS.items()
    }
    reflect = reflection_pb2_grpc.ServerReflectionStub(served.channel).ServerReflectionInfo
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    methods["reflection"] = reflect(iter([question]), metadata=metadata)
    unknown: Any = served.channel.unary_unary(f"/{SERVICE}/Nothing")
    methods["unknown method"] = unknown(b"", metadata=metadata)
    unknown = served.channel.stream_stream("/no.Service/Nothing")
    methods["unknown service"] = unknown(iter([b""]), metadata=metadata)
    return methods


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        bearer("wrong"),
        bearer(""),
        [("authorization", "secret")],
        [("authorization", "Basic secret")],
        [*SECRET, *SECRET],
    ],
    ids=["none", "wrong", "empty", "bare", "basic", "two"],
)
async def test_nothing_but_health_answers_without_a_good_token(
    tokenizer: Tokenizer, tokens: Path, metadata: list[tuple[str, str]]
) -> None:
    """Every method, known or not, ends with the same UNAUTHENTICATED; health tells its status."""
    async with serving(tokenizer, tokens=str(tokens)) as served:
        ended = {name: await status(call) for name, call in calls(served, metadata).items()}
        assert ended == dict.fromkeys(ended, UNAUTHENTICATED)
        assert len(ended) == len(REQUESTS) + 3
        health = health_pb2_grpc.HealthStub(served.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_good_token_opens_everything(tokenizer: Tokenizer, tokens: Path) -> None:
    """With it no method says UNAUTHENTICATED, and what there is not is UNIMPLEMENTED again."""
    async with serving(tokenizer, tokens=str(tokens)) as served:
        ended = {name: await status(call) for name, call in calls(served, SECRET).items()}
    assert UNAUTHENTICATED not in ended.values()
    assert ended["GetLoad"] == ended["reflection"] == grpc.StatusCode.OK
    assert ended["unknown method"] == ended["unknown service"] == grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_without_a_token_is_refused_before_its_message(
    tokenizer: Tokenizer, tokens: Path
) -> None:
    """A stream whose client sends nothing is told at once; nobody waits for a message, and none is parsed."""
    async with serving(tokenizer, tokens=str(tokens)) as served:
        call: Any = served.channel.stream_stream(f"/{SERVICE}/Generate")()
        assert await call.code() is UNAUTHENTICATED


async def test_rotation_needs_no_restart(tokenizer: Tokenizer, tokens: Path) -> None:
    """The next call after the file changed goes by the new file; a stream that runs goes on."""
    gate = Gate(steps=2)
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner, tokens=str(tokens)) as served:
        request = pb.GenerateStreamRequest(generation=generation(max_tokens=8))
        running = aiter(served.stub.GenerateStream(request, metadata=SECRET))
        await anext(running)
        write(tokens, alice="changed")
        load = served.stub.GetLoad
        assert await status(load(pb.GetLoadRequest(), metadata=SECRET)) is UNAUTHENTICATED
        changed = bearer("changed")
        assert await status(load(pb.GetLoadRequest(), metadata=changed)) is grpc.StatusCode.OK
        gate.open()
        assert [message.finish.reason async for message in running][-1]


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def retry_s(error: grpc.aio.AioRpcError) -> float:
    """When to come back, as RetryInfo and the pushback for gRPC's own retries agree."""
    found = rpc_status.from_call(error)
    assert found is not None
    info = error_details_pb2.RetryInfo()
    assert found.details[0].Unpack(info)
    trailers = dict(error.trailing_metadata())
    seconds: float = info.retry_delay.ToMilliseconds() / 1e3
    assert trailers["grpc-retry-pushback-ms"] == str(round(seconds * 1e3))
    return seconds


async def test_the_rate_of_a_token_is_its_own(tokenizer: Tokenizer, tokens: Path) -> None:
    """Over it: RESOURCE_EXHAUSTED and when to come back. Others, questions and aborts are not concerned."""
    write(tokens, slow="slow rate=0.001", alice="secret")
    slow = bearer("slow")
    request = pb.GenerateRequest(generation=generation())
    async with serving(tokenizer, tokens=str(tokens)) as served:
        await served.stub.Generate(request, metadata=slow)
        error = await refused(served.stub.Generate(request, metadata=slow))
        assert error.code() is EXHAUSTED
        assert 900 < retry_s(error) <= 1000
        assert error.details() == "this token may send 0.001 requests a second"
        stream = served.stub.GenerateStream(
            pb.GenerateStreamRequest(generation=generation()), metadata=slow
        )
        assert await status(stream) is EXHAUSTED
        await served.stub.GetLoad(pb.GetLoadRequest(), metadata=slow)
        await served.stub.Abort(pb.AbortRequest(request_ids=["x"]), metadata=slow)
        await served.stub.Generate(request, metadata=SECRET)


async def test_concurrency_counts_completions_until_they_end(
    tokenizer: Tokenizer, tokens: Path
) -> None:
    """A place is free again when a stream ends, is cancelled or fails; batches and `n` count each completion."""
    write(tokens, two="two concurrency=2")
    two = bearer("two")
    gate = Gate()
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)

    def generate(**sampling: Any) -> Any:
        message = generation(sampling=pb.Sampling(**sampling)) if sampling else generation()
        return served.stub.Generate(pb.GenerateRequest(generation=message), metadata=two)

    def batch(count: int) -> Any:
        request = pb.GenerateBatchRequest(generations=[generation()] * count)
        return served.stub.GenerateBatch(request, metadata=two)

    async def until_accepted(make: Callable[[], Any]) -> Any:
        """The first call that is not refused: the end of another reaches the server a moment later."""
        while True:
            call = make()
            done, _ = await asyncio.wait([asyncio.ensure_future(call.code())], timeout=0.1)
            if not done or await call.code() is not EXHAUSTED:
                return call

    async with serving(tokenizer, runner, tokens=str(tokens)) as served:
        both = served.stub.GenerateStream(
            pb.GenerateStreamRequest(generation=generation(sampling=pb.Sampling(n=2))),
            metadata=two,
        )
        await both.read()
        assert await status(generate()) is EXHAUSTED
        both.cancel()
        one = await until_accepted(generate)
        assert await status(batch(2)) is EXHAUSTED
        for never, field in ((batch(3), "generations"), (generate(n=3), "generation.sampling.n")):
            error = await refused(never)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (error.details() or "").startswith(f"{field}: this token may run 2 requests")
        gate.open()
        assert await status(one) is grpc.StatusCode.OK
        bad = generation(sampling=pb.Sampling(top_p=2.0))
        for _ in range(3):
            call = served.stub.Generate(pb.GenerateRequest(generation=bad), metadata=two)
            assert await status(call) is grpc.StatusCode.INVALID_ARGUMENT
        assert await status(await until_accepted(lambda: batch(2))) is grpc.StatusCode.OK


async def test_only_an_admin_aborts_everything(tokenizer: Tokenizer, tokens: Path) -> None:
    """Others name the requests they mean."""
    everything = pb.AbortRequest(all=True)
    async with serving(tokenizer, tokens=str(tokens)) as served:
        error = await refused(served.stub.Abort(everything, metadata=SECRET))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        await served.stub.Abort(pb.AbortRequest(request_ids=["x"]), metadata=SECRET)
        await served.stub.Abort(everything, metadata=bearer("master"))


async def test_the_log_names_the_caller_and_shows_no_token(
    tokenizer: Tokenizer, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who was answered and who was refused can be told from the log; tokens, prompts and new lines are not in it."""
    caplog.set_level("DEBUG")
    async with serving(tokenizer, tokens=str(tokens)) as served:
        request = pb.GenerateRequest(generation=generation("a private prompt"))
        await served.stub.Generate(request, metadata=SECRET)
        await status(served.stub.Generate(request, metadata=bearer("guess")))
        unknown: Any = served.channel.unary_unary('/a" status=OK/b')
        await status(unknown(b""))
    lines = [r.getMessage() for r in caplog.records if r.name == "paceline.requests"]
    assert "rpc=Generate status=OK" in lines[0] and "caller=alice" in lines[0]
    assert "rpc=Generate status=UNAUTHENTICATED" in lines[1] and "caller" not in lines[1]
    assert r'rpc="/a\" status=OK/b" status=UNAUTHENTICATED' in lines[2]
    everything = "\n".join(record.getMessage() for record in caplog.records)
    assert not {word for word in ("secret", "guess", "private") if word in everything}

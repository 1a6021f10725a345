"""The server's life: health, ports, reflection, metrics and status."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from mock_serving import WAIT_S, Gate, Served, generation, serving
from paceline.server.app import App
from paceline.server.config import ServeConfig
from paceline.server.errors import SetupError
from paceline.server.loader import Loaded
from paceline.server.mock import MockRunner
from paceline.server.step import Step
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "paceline.v1.GenerationService"
LOCAL = ServeConfig(port=0, metrics_port=None)


async def check(channel: grpc.aio.Channel, service: str = SERVICE) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    response = await health_pb2_grpc.HealthStub(channel).Check(request)
    status: int = response.status
    return status


async def get(port: int | None, path: str) -> bytes:
    def fetch() -> bytes:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_S) as response:
            body: bytes = response.read()
            return body

    return await asyncio.to_thread(fetch)


def metrics(text: bytes) -> dict[str, Any]:
    """Samples by name and labels."""
    return {
        " ".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]): (
            sample.value
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_health_follows_the_phases(tokenizer: Tokenizer) -> None:
    """NOT_SERVING and UNAVAILABLE while the model loads, SERVING when it is warm, NOT_SERVING in a drain."""
    loaded = threading.Event()

    def loader(_: ServeConfig) -> Loaded:
        assert loaded.wait(WAIT_S)
        return Loaded(MockRunner(vocab_size=tokenizer.vocab_size), tokenizer)

    app = App(LOCAL, loader)
    await app.bind()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE)
        )
        seen = aiter(watch)
        loading = asyncio.create_task(app.load())
        stub: Any = rpc.GenerationServiceStub(channel)
        assert (await anext(seen)).status == NOT_SERVING
        assert await check(channel, "") == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(pb.GenerateRequest(generation=generation()))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        loaded.set()
        await loading
        assert (await anext(seen)).status == SERVING
        assert await check(channel) == await check(channel, "") == SERVING
        await stub.Generate(pb.GenerateRequest(generation=generation()))
        assert await app.drain(asyncio.Event())
        assert (await anext(seen)).status == NOT_SERVING
        assert await check(channel) == NOT_SERVING
    await app.close()


async def test_health_tells_when_the_engine_is_dead(tokenizer: Tokenizer) -> None:
    """If the engine's loop dies, health says so, and its requests fail instead of hanging."""

    class Deadly(BaseException):
        """Not even the engine catches it."""

    gate = Gate()

    def on_step(step: Step) -> None:
        gate(step)
        raise Deadly

    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=on_step)
    failures: list[Any] = []
    hook, threading.excepthook = threading.excepthook, failures.append
    try:
        async with serving(tokenizer, runner) as served:
            watch = health_pb2_grpc.HealthStub(served.channel).Watch(
                health_pb2.HealthCheckRequest()
            )
            seen = aiter(watch)
            assert (await anext(seen)).status == SERVING
            call = served.stub.Generate(pb.GenerateRequest(generation=generation()))
            gate.open()
            assert (await anext(seen)).status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.stub.Generate(pb.GenerateRequest(generation=generation()))
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert not await served.app.drain(
                asyncio.Event()
            )  # at once: there is nobody to wait for
    finally:
        threading.excepthook = hook
    assert [failure.exc_type for failure in failures] == [Deadly]


async def test_health_of_unknown_services(served: Served) -> None:
    """Health answers for our service only."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(served.channel, "somebody.Else")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def reflected(channel: grpc.aio.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    async for response in call:
        return {service.name for service in response.list_services_response.service}
    raise AssertionError("no answer")


async def test_reflection_lists_the_services(tokenizer: Tokenizer, served: Served) -> None:
    """Tools find the service without its proto; the flag switches that off."""
    names = await reflected(served.channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    async with serving(tokenizer, reflection=False) as closed:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflected(closed.channel)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_metrics_count_what_happened(tokenizer: Tokenizer) -> None:
    """The text parses, and its numbers are those of the requests that were made."""
    async with serving(tokenizer, metrics_port=0) as served:
        for _ in range(2):
            await served.stub.Generate(pb.GenerateRequest(generation=generation(max_tokens=5)))
        with pytest.raises(grpc.aio.AioRpcError):
            await served.stub.Generate(pb.GenerateRequest())
        values = metrics(await get(served.app.metrics_port, "/metrics"))
    assert values["paceline_generation_tokens_total"] == 10
    assert values["paceline_prompt_tokens_total"] == 4
    assert values["paceline_request_success_total finished_reason=max_tokens"] == 2
    assert values["paceline_requests_total status=OK"] == 2
    assert values["paceline_request_rejections_total reason=invalid"] == 1
    assert values["paceline_time_to_first_token_seconds_count"] == 2
    assert values["paceline_request_time_per_output_token_seconds_count"] == 2
    assert values["paceline_request_generation_tokens_sum"] == 10
    assert values["paceline_num_requests_running"] == 0
    assert values["paceline_kv_cache_usage_perc"] == 0
    assert values["paceline_engine_healthy"] == 1
    assert values["paceline_padded_tokens_total"] >= values["paceline_real_tokens_total"] > 0


async def test_status_page_and_its_data(tokenizer: Tokenizer) -> None:
    """`/` is one page that loads nothing else; `/status.json` has what it shows; other paths are 404."""
    async with serving(tokenizer, metrics_port=0) as served:
        page = (await get(served.app.metrics_port, "/")).decode()
        assert "<title>Paceline</title>" in page
        assert "/* s" not in page  # styles and scripts are in it
        assert "http://www.w3.org/2000/svg" in page
        assert page.count("http") == 1  # the name of SVG, and nothing that would be fetched
        status = json.loads(await get(served.app.metrics_port, "/status.json?x=1"))
        with pytest.raises(OSError, match="404"):
            await get(served.app.metrics_port, "/etc/passwd")
    assert status["health"] == "serving"
    assert status["model"]["name"] == "mock"
    assert status["mode"] == "continuous"
    assert status["load"]["pages_total"] == 511


async def test_status_before_the_model_is_there(tokenizer: Tokenizer) -> None:
    """The status page and the metrics answer while the model loads."""
    app = App(ServeConfig(port=0, metrics_port=0, model="some/model"))
    await app.bind()
    try:
        status = json.loads(await get(app.metrics_port, "/status.json"))
        values = metrics(await get(app.metrics_port, "/metrics"))
    finally:
        await app.close()
    assert (status["health"], status["model"]["name"]) == ("loading", "some/model")
    assert values["paceline_engine_healthy"] == 0


@pytest.mark.parametrize(
    ("flag", "setting"), [("--port", "port"), ("--metrics-port", "metrics_port")]
)
async def test_a_port_in_use_is_told_before_loading(flag: str, setting: str) -> None:
    """Nothing is loaded for a server that could not listen."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = App(LOCAL.model_copy(update={setting: port}))
        with pytest.raises(
            SetupError, match=rf"127\.0\.0\.1:{port}: address already in use.*{flag}"
        ):
            await app.bind()
        await app.close()


async def test_two_servers_do_not_share_a_port(tokenizer: Tokenizer) -> None:
    """A second server on a gRPC port fails, instead of taking every other connection."""
    async with serving(tokenizer) as served:
        app = App(LOCAL.model_copy(update={"port": served.app.port}))
        with pytest.raises(SetupError, match="address already in use"):
            await app.bind()
        await app.close()


async def test_other_machines_are_let_in_only_by_name(tokenizer: Tokenizer) -> None:
    """An address other machines can reach needs --insecure."""
    app = App(LOCAL.model_copy(update={"host": "0.0.0.0"}))
    with pytest.raises(SetupError, match="--insecure"):
        await app.bind()
    await app.close()
    async with serving(tokenizer, host="0.0.0.0", insecure=True) as served:
        await served.stub.GetLoad(pb.GetLoadRequest())


async def test_closing_tells_who_still_runs(tokenizer: Tokenizer) -> None:
    """A server that is closed with requests running ends them with ABORTED and what they made."""
    gate = Gate(steps=3)
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner) as served:
        call = served.stub.Generate(pb.GenerateRequest(generation=generation(max_tokens=2000)))
        await served.until(lambda load: load.output_tokens == 3)
        closing = asyncio.create_task(served.app.close())
        await served.until(lambda load: load.draining)
        gate.open()
        await closing
        result = (await call).result
    assert result.completions[0].finish.reason == pb.FINISH_REASON_ABORTED
    assert 3 <= result.usage.completion_tokens < 2000

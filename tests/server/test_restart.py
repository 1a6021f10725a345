"""`paceline serve --mock` when its engine dies: who is answered, who is told, and when it serves again."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from mock_serving import generation
from paceline.v1 import generation_pb2 as pb
from process_serving import (
    COMMAND,
    NOT_SERVING,
    SERVING,
    WAIT_S,
    Frontend,
    Server,
    starting,
    status_of,
    text_of,
    until,
)

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="ports are shared on Linux alone"),
]


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers that do not outlive the test."""
    yield from starting("--mock", "--log-level", "warning", program=("-c", COMMAND))


def retry_s(error: Any) -> float:
    """When to come again, by the error's details."""
    (detail,) = rpc_status.from_call(error).details
    retry = error_details_pb2.RetryInfo()
    assert detail.Unpack(retry)
    delay: float = retry.retry_delay.ToMilliseconds() / 1e3
    return delay


def answer(frontend: Frontend, max_tokens: int = 8, **fields: Any) -> pb.GenerationResult:
    """What a client gets that comes again whenever it is told to."""

    def result() -> pb.GenerationResult | None:
        try:
            return frontend.generate(max_tokens, **fields)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    found: pb.GenerationResult = until(result)
    return found


def test_a_killed_engine_comes_back(start: Callable[..., Server]) -> None:
    """Killed outright under load, then hung, then told to leave: nobody who had not started is lost."""
    begun = time.monotonic()
    server = start("--frontends", "2", "--max-batch-size", "4", "--step-timeout-s", "8")
    start_s = time.monotonic() - begun
    one, two = server.connect_each()
    whole = one.generate(8).completions[0].text

    watches = [f.health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S) for f in (one, two)]
    assert [next(watch).status for watch in watches] == [SERVING] * 2
    running = [(one, two)[i % 2].stream(3000) for i in range(4)]
    request = pb.GenerateRequest(generation=generation(max_tokens=8))
    waiting = [(one, two)[i % 2].stub.Generate.future(request) for i in range(20)]
    limited = one.stub.Generate.future(pb.GenerateRequest(generation=generation(time_limit_ms=400)))
    streamed = two.stub.GenerateStream(
        pb.GenerateStreamRequest(generation=generation(max_tokens=8)), timeout=WAIT_S
    )
    until(lambda: two.load().waiting >= 21)
    server.engine.kill()

    assert [next(watch).status for watch in watches] == [NOT_SERVING] * 2
    for call in running:
        error = status_of(partial(list, call))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert 0 < retry_s(error) < 0.6 + start_s  # a pause, and what the engine's first start took
    error = status_of(one.generate)
    assert (error.code(), error.details()) == (
        grpc.StatusCode.UNAVAILABLE,
        "the engine is restarting",
    )
    assert retry_s(error) > 0
    assert [next(watch).status for watch in watches] == [SERVING] * 2
    results = [call.result(WAIT_S).result for call in waiting]
    assert [r.completions[0].text for r in results] == [whole] * 20
    assert text_of(streamed)[0] == whole
    late = limited.result(WAIT_S).result.completions[0]
    assert late.finish.reason == pb.FINISH_REASON_TIME_LIMIT and late.num_tokens == 0
    assert server.metric("paceline_engine_restarts_total") == 1
    assert server.metric("paceline_engine_last_restart_timestamp_seconds") > 1.7e9
    two.until_idle()

    beside = [two.stream(3000) for _ in range(3)]
    hanging = one.stub.Generate.future(pb.GenerateRequest(generation=generation('{"hang": 1}')))
    until(lambda: one.load().waiting == 0)
    waiting = [one.stub.Generate.future(request) for _ in range(4)]
    for call in (*beside, hanging):
        error = status_of(hanging.result if call is hanging else partial(list, call))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    server.process.send_signal(signal.SIGTERM)
    assert [call.result(WAIT_S).result.completions[0].text for call in waiting] == [whole] * 4
    code, log = server.finish()
    assert code == 0, log
    assert log.count("the engine died (signal 9) while it computed 4 requests") == 1
    assert log.count("the engine hung while it computed 4 requests") == 1
    assert log.count("the engine is ready again") == 2
    assert "Traceback" not in log


def test_a_poisonous_request_is_refused(start: Callable[..., Server]) -> None:
    """Two engines die of it; then it is refused with a fixed text, and all others are answered."""
    server = start("--frontends", "1", "--mock-tokens-per-s", "200")
    (front,) = server.connect_each()
    poison = '{"crash": 5}'
    with ThreadPoolExecutor(5) as pool:
        neighbours = [pool.submit(answer, front, 40, text=f"neighbour {i}") for i in range(4)]
        error = status_of(lambda: answer(front, 40, text=poison))
        results = [neighbour.result(WAIT_S) for neighbour in neighbours]
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details().startswith("internal error ")
    assert [result.usage.completion_tokens for result in results] == [40] * 4
    assert server.metric("paceline_engine_restarts_total") == 2
    again = status_of(lambda: front.generate(40, text=poison, request_id="known"))
    assert again.code() is grpc.StatusCode.INTERNAL
    server.process.send_signal(signal.SIGTERM)
    code, log = server.finish()
    assert code == 0, log
    assert "refused a request that engines died of: id=known" in log
    assert "crash" not in log.replace("a prompt asks the engine to crash", "")
    assert log.count("the engine died (exit code 70)") == 2

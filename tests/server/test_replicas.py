"""`paceline serve --replicas 2`: two engines behind one port."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import pytest

from mock_serving import generation
from paceline.v1 import generation_pb2 as pb
from process_serving import (
    COMMAND,
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
    yield from starting("--replicas", "2", "--log-level", "warning", program=("-c", COMMAND))


def restarts(server: Server) -> float:
    """Of all engines together."""
    return sum(server.metric(f'paceline_engine_restarts_total{{engine="{i}"}}') for i in (0, 1))


def insistent(frontend: Frontend, text: str) -> pb.GenerationResult:
    """What a client gets that comes again whenever it is told to."""

    def result() -> pb.GenerationResult | None:
        try:
            return frontend.generate(8, text=text)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    found: pb.GenerationResult = until(result)
    return found


def end_of(stream: Any) -> int | grpc.StatusCode:
    """The tokens of a stream that ends whole, or its status."""
    try:
        tokens: int = text_of(stream)[1].summary.usage.completion_tokens
    except grpc.RpcError as error:
        return error.code()
    return tokens


def test_requests_are_shared_out(start: Callable[..., Server]) -> None:
    """Streams of two front ends spread over both engines, known prompts go where they are known, and sums are sums."""
    server = start("--mock", "--frontends", "2")
    one, two = server.connect_each()
    info = one.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=WAIT_S)
    assert (info.replicas, info.num_pages) == (2, one.load().replicas[1].pages_total)

    # Alone, each prompt would go to the engine that had none for the longest time.
    for i in range(3):
        results = [one.generate(2, text=f"{i}" * 100 + f"{j}") for j in range(4)]
        assert [r.usage.cached_tokens for r in results] == [0, 96, 96, 96]
    load = one.load()
    assert {each.requests_finished for each in load.replicas} == {4, 8}
    assert (load.requests_finished, load.cached_tokens) == (12, 9 * 96)

    names = [f"r{i}" for i in range(8)]
    streams = [(one, two)[i % 2].stream(3000, text=n, request_id=n) for i, n in enumerate(names)]
    for name in names:  # at the other front end, whose requests may go to the other engine
        error = status_of(partial(two.generate, request_id=name))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    load = two.load()
    assert load.running == 8 == sum(each.running for each in load.replicas)
    assert min(each.running for each in load.replicas) >= 2
    gauges = [f'paceline_num_requests_running{{engine="{i}"}}' for i in (0, 1)]
    until(lambda: [server.metric(name) for name in gauges] == [e.running for e in load.replicas])
    status = json.loads(server.get("/status.json"))["load"]
    assert (status["running"], len(status["replicas"])) == (8, 2)
    assert two.stub.Abort(pb.AbortRequest(all=True), timeout=WAIT_S).aborted == 8
    for stream in streams:
        assert text_of(stream)[1].finish.reason == pb.FINISH_REASON_ABORTED
    one.until_idle()
    assert two.generate(request_id="r0").request_id == "r0"


def test_a_dead_engine_is_stood_in_for(start: Callable[..., Server]) -> None:
    """Killed under load: the other one answers what it had not begun. And a poisonous request kills two, not three."""
    server = start(
        *("--mock", "--frontends", "2", "--max-batch-size", "3", "--mock-tokens-per-s", "200")
    )
    frontends = one, two = server.connect_each()
    whole = one.generate(8).completions[0].text
    running = [one.stream(2000, text=f"{i}") for i in range(6)]
    assert [each.running for each in two.load().replicas] == [3, 3]
    request = pb.GenerateRequest(generation=generation(max_tokens=8))
    waiting = [frontends[i % 2].stub.Generate.future(request) for i in range(12)]
    until(lambda: one.load().waiting == 12)
    assert all(each.waiting for each in one.load().replicas)
    server.children("engine")[0].kill()

    with ThreadPoolExecutor(6) as pool:
        ends = list(pool.map(end_of, running))
    assert ends.count(grpc.StatusCode.UNAVAILABLE) == ends.count(2000) == 3
    assert [f.check() for f in frontends] == [SERVING] * 2
    results = [call.result(WAIT_S).result for call in waiting]
    assert [r.completions[0].text for r in results] == [whole] * 12
    until(lambda: restarts(server) == 1)
    until(lambda: all(each.pages_total for each in two.load().replicas))

    error = status_of(lambda: insistent(one, '{"crash": 3}'))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert insistent(two, "innocent").usage.completion_tokens == 8
    until(lambda: restarts(server) == 3)
    again = status_of(lambda: two.generate(text='{"crash": 3}'))
    assert again.code() is grpc.StatusCode.INTERNAL

    last = [frontends[i % 2].stream(200, text=f"{i}") for i in range(4)]
    server.process.send_signal(signal.SIGTERM)
    assert [end_of(stream) for stream in last] == [200] * 4
    code, log = server.finish()
    assert code == 0, log
    assert log.count("died (signal 9)") == 1
    assert log.count("died (exit code 70)") == 2
    assert "Traceback" not in log

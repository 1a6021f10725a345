"""`paceline serve` as a process: ready line, drain in order, exit codes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mock_serving import WAIT_S, generation
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

PROGRAM = Path(__file__).parents[1] / "mock_serving.py"
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Process:
    """A server process that is ready."""

    def __init__(self, *flags: str, step_s: float = 0.005) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "--port", "0", "--metrics-port", "none", *flags],
            env=os.environ | {"STEP_S": str(step_s)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.banner = self._process.stdout.readline()
        found = re.search(r" on 127\.0\.0\.1:(\d+) ", self.banner)
        if found is None:
            raise AssertionError(self.finish()[1])
        self.channel = grpc.insecure_channel(f"127.0.0.1:{found[1]}")
        self.stub: Any = rpc.GenerationServiceStub(self.channel)

    def stream(self, max_tokens: int) -> Any:
        request = pb.GenerateStreamRequest(generation=generation(max_tokens=max_tokens))
        call = self.stub.GenerateStream(request, timeout=WAIT_S)
        next(call)  # the header: the request is in the engine
        next(call)
        return call

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait_until_not_serving(self) -> None:
        watch = health_pb2_grpc.HealthStub(self.channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=WAIT_S
        )
        for response in watch:
            if response.status == NOT_SERVING:
                watch.cancel()
                return

    def finish(self) -> tuple[int, str]:
        """Exit code and standard error."""
        _, errors = self._process.communicate(timeout=WAIT_S)
        return self._process.returncode, errors

    def close(self) -> None:
        if hasattr(self, "channel"):
            self.channel.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts servers that do not outlive the test."""
    running: list[Process] = []

    def start_one(*flags: str, step_s: float = 0.005) -> Process:
        process = Process(*flags, step_s=step_s)
        running.append(process)
        return process

    yield start_one
    for process in running:
        process.close()


def test_drain_lets_running_requests_finish(start: Callable[..., Process]) -> None:
    """SIGTERM: health says NOT_SERVING, new requests are refused with a delay, the running one ends, exit 0."""
    server = start()
    call = server.stream(400)
    server.signal(signal.SIGTERM)
    server.wait_until_not_serving()
    with pytest.raises(grpc.RpcError) as caught:
        while True:  # NOT_SERVING comes a moment before the refusals
            server.stub.Generate(pb.GenerateRequest(generation=generation()), timeout=WAIT_S)
    refusal: Any = caught.value
    assert refusal.code() == grpc.StatusCode.UNAVAILABLE
    assert "grpc-retry-pushback-ms" in dict(refusal.trailing_metadata())
    *_, last = call
    assert last.finish.reason == pb.FINISH_REASON_MAX_TOKENS
    assert last.summary.usage.completion_tokens == 400
    code, errors = server.finish()
    assert code == 0, errors
    assert "Traceback" not in errors


def test_drain_that_takes_too_long_aborts(start: Callable[..., Process]) -> None:
    """After the timeout what runs ends with ABORTED and the text so far, and the exit code says so."""
    server = start("--drain-timeout-s", "0.3")
    call = server.stream(7000)
    server.signal(signal.SIGTERM)
    *_, last = call
    assert last.finish.reason == pb.FINISH_REASON_ABORTED
    assert 0 < last.summary.usage.completion_tokens < 7000
    code, errors = server.finish()
    assert code == 1
    assert "drain cut short" in errors
    assert "Traceback" not in errors


def test_second_signal_forces(start: Callable[..., Process]) -> None:
    """A second signal ends a long drain at once."""
    server = start("--drain-timeout-s", "600")
    call = server.stream(7000)
    server.signal(signal.SIGINT)
    server.wait_until_not_serving()
    server.signal(signal.SIGINT)
    *_, last = call
    assert last.finish.reason == pb.FINISH_REASON_ABORTED
    assert server.finish()[0] == 1


def test_drain_delay_still_serves(start: Callable[..., Process]) -> None:
    """During the delay for load balancers requests are answered although health says NOT_SERVING."""
    server = start("--drain-delay-s", "600")
    server.signal(signal.SIGTERM)
    server.wait_until_not_serving()
    answer = server.stub.Generate(pb.GenerateRequest(generation=generation()), timeout=WAIT_S)
    assert answer.result.usage.completion_tokens == 8
    server.signal(signal.SIGTERM)
    assert server.finish()[0] == 0


def test_idle_server_stops_at_once(start: Callable[..., Process]) -> None:
    """With nothing to finish SIGTERM ends the process, cleanly; each request left one line in the log."""
    server = start()
    server.stub.Generate(
        pb.GenerateRequest(generation=generation("very secret", request_id="a b")), timeout=WAIT_S
    )
    server.signal(signal.SIGTERM)
    code, errors = server.finish()
    assert code == 0
    (line,) = [line for line in errors.splitlines() if "paceline.requests" in line]
    assert "rpc=Generate status=OK" in line
    assert 'id="a b"' in line
    assert "finish=max_tokens output_tokens=8" in line
    assert "secret" not in errors


@pytest.mark.parametrize("frontends", ["0", "1"])
def test_signal_while_loading_ends_at_once(frontends: str) -> None:
    """Nobody has to wait for a model that is not wanted any more, and no process stays behind."""
    if frontends != "0" and sys.platform != "linux":
        pytest.skip("ports are shared on Linux alone")
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), "--port", "0", "--metrics-port", "none"],
        env=os.environ | {"LOAD_S": "600", "PACELINE_FRONTENDS": frontends},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert "loading the model" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert output == ""


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """`paceline serve` with flags that keep it from serving."""
    code = "import sys; from paceline.server.cli import main_serve; sys.exit(main_serve())"
    return subprocess.run(
        [sys.executable, "-c", code, *flags],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--port", "99999"], "--port: should be less than or equal to 65535, not '99999'"),
        (
            ["--mode", "magic"],
            "--mode: should be 'sequential', 'static', 'dynamic' or 'continuous'",
        ),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in"),
        (["--tls-cert", "/no.pem", "--tls-key", "/no.key"], "--tls-cert /no.pem: no such file"),
        (["--tls-cert", "/no.pem"], "--tls-cert needs --tls-key"),
        (["--tokens", "/nowhere"], "--tokens /nowhere: no such file or directory"),
        (["--config", "/nowhere.toml"], "--config /nowhere.toml: no such file or directory"),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], line: str) -> None:
    """A bad setting names itself in one line on standard error; exit code 2."""
    result = run(*flags)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("paceline serve: ")
    assert line in result.stderr


def test_port_in_use_is_one_line() -> None:
    """A taken port is told before any model is loaded; exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--port", str(port), "--metrics-port", "none", "--log-level", "error")
    assert result.returncode == 2
    assert result.stderr == (
        f"paceline serve: cannot listen on 127.0.0.1:{port}: address already in use; "
        "choose another --port\n"
    )

"""A server of several processes as a program, and connections to each of its front ends."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mock_serving import generation
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

PROGRAM = Path(__file__).with_name("mock_serving.py")
COMMAND = "import sys; from paceline.server.cli import main_serve; sys.exit(main_serve())"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WAIT_S = 100.0  # every process imports libraries for seconds, on a machine that may be busy


def starting(*first: str, **usual: Any) -> Iterator[Callable[..., Server]]:
    """What a fixture yields: starts servers with these flags and more, which do not outlive the test."""
    running: list[Server] = []

    def start_one(*flags: str, **options: Any) -> Server:
        running.append(Server(*first, *flags, **(usual | options)))
        return running[-1]

    yield start_one
    for server in running:
        server.close()


def until(condition: Callable[[], Any]) -> Any:
    """The first true value of the condition."""
    end = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
    return value


class Frontend:
    """A channel whose connection one front end has; `pid` is its process."""

    def __init__(self, port: int, pid: int, channel: grpc.Channel) -> None:
        self.port = port
        self.pid = pid
        self.channel = channel
        self.stub: Any = rpc.GenerationServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    def check(self) -> int:
        status: int = self.health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S).status
        return status

    def until_serving(self) -> None:
        until(lambda: self.check() == SERVING)

    def stream(self, max_tokens: int, **fields: Any) -> Any:
        """A stream whose request is in the engine and has a token."""
        request = pb.GenerateStreamRequest(generation=generation(max_tokens=max_tokens, **fields))
        call = self.stub.GenerateStream(request, timeout=WAIT_S)
        next(call)
        next(call)
        return call

    def generate(self, max_tokens: int = 8, **fields: Any) -> pb.GenerationResult:
        request = pb.GenerateRequest(generation=generation(max_tokens=max_tokens, **fields))
        result: pb.GenerationResult = self.stub.Generate(request, timeout=WAIT_S).result
        return result

    def load(self) -> pb.GetLoadResponse:
        load: pb.GetLoadResponse = self.stub.GetLoad(pb.GetLoadRequest(), timeout=WAIT_S)
        return load

    def until_idle(self) -> None:
        until(lambda: not ((load := self.load()).running or load.waiting or load.pages_used))


class Server:
    """A server of processes that is ready: `mock_serving.py`, or another program that takes `serve`'s flags."""

    def __init__(
        self,
        *flags: str,
        python: str = sys.executable,
        program: Sequence[str] = (str(PROGRAM),),
        step_s: float = 0.005,
        end_s: float = 10.0,
    ) -> None:
        self.process = subprocess.Popen(
            [python, *program, "--port", "0", "--metrics-port", "0", *flags],
            env=os.environ
            | {"STEP_S": str(step_s), "END_S": str(end_s), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.channels: list[grpc.Channel] = []
        assert self.process.stdout is not None and self.process.stderr is not None
        self.banner = self.process.stdout.readline()
        found = re.search(
            r" on 127\.0\.0\.1:(\d+) .*status http://127\.0\.0\.1:(\d+)/", self.banner
        )
        if found is None:
            raise AssertionError(self.finish()[1])
        self.port, self.metrics_port = int(found[1]), int(found[2])

    def children(self, module: str) -> list[psutil.Process]:
        """The processes that run this module of the server."""
        name = f"paceline.server.processes.{module}"
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if name in child.cmdline()]

    @property
    def engine(self) -> psutil.Process:
        (engine,) = self.children("engine")
        return engine

    def connect_each(self, credentials: grpc.ChannelCredentials | None = None) -> list[Frontend]:
        """One connection to each front end; over TLS with these credentials."""
        wanted = {child.pid for child in self.children("frontend")}
        found: dict[int, Frontend] = {}
        end = time.monotonic() + WAIT_S
        while found.keys() != wanted:
            assert time.monotonic() < end
            known = self._server_sides()
            options = [("grpc.use_local_subchannel_pool", 1)]
            target = f"127.0.0.1:{self.port}"
            channel = (
                grpc.insecure_channel(target, options)
                if credentials is None
                else grpc.secure_channel(target, credentials, options)
            )
            self.channels.append(channel)
            grpc.channel_ready_future(channel).result(WAIT_S)
            pid = self._owner_of_new(known)
            found.setdefault(pid, Frontend(self.port, pid, channel))
        return list(found.values())

    def _owner_of_new(self, known: set[tuple[int, int]]) -> int:
        """The front end with a connection that is not known yet."""
        ((pid, _),) = until(lambda: self._server_sides() - known)
        found: int = pid
        return found

    def _server_sides(self) -> set[tuple[int, int]]:
        """Front ends' connections: process id and the client's port."""
        return {
            (child.pid, connection.raddr.port)
            for child in self.children("frontend")
            for connection in child.net_connections("tcp")
            if connection.laddr.port == self.port and connection.raddr
        }

    def get(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=WAIT_S) as response:
            body: bytes = response.read()
        return body.decode()

    def metric(self, sample: str) -> float:
        """The value of one line of /metrics; 0 while it is not there."""
        lines = self.get("/metrics").splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(sample + " ")), 0)

    def until_logged(self, words: str) -> None:
        """Reads the log up to a line with these words."""
        assert self.process.stderr is not None
        assert any(words in line for line in self.process.stderr), "it ended without the words"

    def finish(self) -> tuple[int, str]:
        """Exit code and standard error, when the process and all its children have ended."""
        _, errors = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, errors

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
        if self.process.poll() is None:
            self.process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.communicate()


def text_of(call: Any) -> tuple[str, Any]:
    """What is left of a stream: its text and its last message."""
    messages = list(call)
    return "".join(message.text for message in messages), messages[-1]


def status_of(call: Callable[[], Any]) -> Any:
    """The error that the call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value

"""Real parts for the load generator's tests: a scripted gRPC server and Locust, each a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from paceline.loadgen.command import command_line
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.recorder import read_requests
from paceline.loadgen.timing import Record
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

SERVER = Path(__file__).with_name("scripted_server.py")
RUN_TIMEOUT_S = 100


@dataclass(frozen=True)
class ScriptedServer:
    """A running scripted server."""

    target: str

    def load(self) -> pb.GetLoadResponse:
        with grpc.insecure_channel(self.target) as channel:
            return rpc.GenerationServiceStub(channel).GetLoad(pb.GetLoadRequest(), timeout=10)

    def until_idle(self) -> pb.GetLoadResponse:
        """Its load once no stream runs on it any more."""
        deadline = time.monotonic() + 30
        while (load := self.load()).running:
            assert time.monotonic() < deadline, "it went on after its client had left"
        return load


@dataclass(frozen=True)
class Run:
    """What a finished Locust run left behind."""

    headers: list[dict[str, Any]]
    records: list[Record]
    rows: list[dict[str, Any]]  # Locust's own table, without the aggregated row
    log: str

    @property
    def requests(self) -> int:
        """Requests by Locust's own count."""
        return sum(row["num_requests"] for row in self.rows)

    @property
    def failures(self) -> int:
        return sum(row["num_failures"] for row in self.rows)


def quiet_environment() -> dict[str, str]:
    """This process's environment without settings that Locust would read from it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LOCUST")}


@contextmanager
def scripted_server(*options: str) -> Iterator[ScriptedServer]:
    """A scripted server on a free port of the loopback interface, stopped by its process id."""
    command = [sys.executable, str(SERVER), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield ScriptedServer(f"127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


def self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that is its own authority, with its key, in one PEM file."""
    certificate, key, both = folder / "certificate.pem", folder / "key.pem", folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext"]
    command += ["subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both


ServerFactory = Callable[..., AbstractContextManager[ScriptedServer]]
RunLocust = Callable[..., Run]


@pytest.fixture(scope="session")
def server() -> Iterator[ScriptedServer]:
    """A server that streams three tokens a message: the first after 20 ms, then every 2 ms."""
    with scripted_server("--per-message", "3") as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[ScriptedServer]:
    """Another such server, whose counts are the test's alone."""
    with scripted_server("--per-message", "3") as running:
        yield running


def last_table(printed: str) -> list[dict[str, Any]]:
    """The master's table: with several processes each prints one, the master after its workers."""
    table: list[dict[str, Any]] = []
    while printed := printed.strip():
        table, end = json.JSONDecoder().raw_decode(printed)
        printed = printed[end:]
    return table


@pytest.fixture(scope="session")
def run_locust(tmp_path_factory: pytest.TempPathFactory) -> RunLocust:
    """Runs Locust to its end with these options and reads what it wrote."""
    folder = tmp_path_factory.mktemp("locust")

    def run(options: LoadOptions, **how: Any) -> Run:
        if how.get("processes", 1) > 1:
            how["master_port"] = _free_port()
        command = [*command_line(options, loglevel="INFO", **how), "--json"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            cwd=folder,
            env=quiet_environment(),
        )
        assert done.returncode == 0, done.stderr
        headers, records = read_requests(Path(options.out))
        return Run(headers, records, last_table(done.stdout), done.stderr)

    return run


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago."""
    return _free_port()


@pytest.fixture
def master_port() -> int:
    """Another one, for Locust's own messages."""
    return _free_port()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""A server as a program of its own, for measurements that treat it badly."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import psutil

from commands import PACELINE
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

RESULTS = Path(__file__).parent / "results"
MOCK = ("--mock", "--mock-tokens-per-s", "200", "--max-batch-size", "64")
_IDLE_S = 30.0


class Server:
    """A server that is ready."""

    def __init__(self, process: subprocess.Popen[str], target: str) -> None:
        self.process = process
        self.target = target
        self._channel = grpc.insecure_channel(target)
        self.stub: Any = rpc.GenerationServiceStub(self._channel)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def load(self) -> pb.GetLoadResponse:
        load: pb.GetLoadResponse = self.stub.GetLoad(pb.GetLoadRequest(), timeout=30)
        return load

    def idle(self) -> pb.GetLoadResponse | None:
        """The load once nothing runs, waits or owns pages; None if that does not come true."""
        end = time.monotonic() + _IDLE_S
        while (load := self.load()).running or load.waiting or load.pages_used:
            if time.monotonic() > end:
                return None
            time.sleep(0.01)
        return load

    def processes(self) -> list[psutil.Process]:
        """The server's own, front ends and engine included."""
        first = psutil.Process(self.process.pid)
        return [first, *sorted(first.children(recursive=True), key=lambda child: child.pid)]

    def rss_mib(self) -> float:
        """Memory of all its processes; what they share counts for each."""
        return sum(self.rss_each_mib())

    def rss_each_mib(self) -> list[float]:
        """The same, one by one: the first process, then its children in the order of their ids."""
        return [process.memory_info().rss / 2**20 for process in self.processes()]

    def close(self) -> None:
        self._channel.close()


@contextlib.contextmanager
def served(flags: Sequence[str] = MOCK) -> Iterator[Server]:
    """`paceline serve` with these flags on a free port."""
    command = [*PACELINE, "serve", "--port", "0", "--metrics-port", "none"]
    command += ["--drain-timeout-s", "1", "--log-level", "error", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r" on (\S+:\d+)", process.stdout.readline())
            if found is None:
                raise SystemExit("the server did not start")
            server = Server(process, found[1])
            yield server
            server.close()
        finally:
            process.terminate()


def line(*cells: object) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"

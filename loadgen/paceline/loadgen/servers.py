"""Starts `paceline serve` for one mode on a free port and waits until it serves."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from paceline.loadgen.bench_options import BenchOptions
from paceline.loadgen.children import Child
from paceline.loadgen.probe import NotServing, Probe

READY_S = 600.0  # a large model takes minutes to load
LOOK_S = 0.1
DRAIN_S = 2.0
NAMES_A_MODEL = ("--model", "--dummy-weights", "--config")


class ServerFailed(Exception):
    """The server did not start, or ended by itself; the text is one line that says why."""


class Server:
    """A server of our own: `target` serves from `start` until `stop`."""

    def __init__(self, child: Child, target: str, mode: str) -> None:
        self.child = child
        self.target = target
        self.mode = mode
        self.startup_s = 0.0

    def ended(self) -> str | None:
        """In one line why it is gone; None while it lives."""
        code = self.child.exit_code
        if code is None:
            return None
        return (
            f"the {self.mode} server ended by itself (exit code {code}): {self.child.last_line()}"
        )

    def wait_ready(self, probe: Probe, timeout_s: float = READY_S) -> None:
        """Returns when health is SERVING. Raises ServerFailed when the process ends first or takes too long."""
        until = self.child.started_s + timeout_s
        while time.perf_counter() < until:
            if gone := self.ended():
                raise ServerFailed(gone)
            try:
                probe.check()
            except NotServing:
                time.sleep(LOOK_S)
                continue
            self.startup_s = time.perf_counter() - self.child.started_s
            return
        raise ServerFailed(f"the {self.mode} server was not ready after {timeout_s:.0f} s")

    def stop(self) -> None:
        self.child.stop()


def prepare_model(options: BenchOptions) -> int:
    """Fetch the model that the servers will load, however long that takes: the exit code of the child that does.

    Its standard error is the user's own: it shows progress, and in one line why it failed.
    """
    command = prepare_command(options)
    if not command:
        return 0
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    return done.returncode


def prepare_command(options: BenchOptions) -> list[str]:
    """What brings the model's files here; nothing where the servers' own arguments name another model."""
    if any(argument.split("=")[0] in NAMES_A_MODEL for argument in options.serve_arguments):
        return []
    return [
        sys.executable,
        "-m",
        "paceline.server.runner.prepare",
        *options.model_arguments,
    ]


def serve_command(options: BenchOptions, mode: str, port: int) -> list[str]:
    """`paceline serve` as a child of this very interpreter."""
    command = [sys.executable, "-m", "paceline.client.cli", "serve", "--mode", mode]
    command += ["--host", "127.0.0.1", "--port", str(port), "--metrics-port", "none"]
    command += ["--max-batch-size", str(max(32, *options.concurrency))]
    command += ["--drain-timeout-s", str(DRAIN_S)]
    return [*command, *options.model_arguments, *options.serve_arguments]


def start_server(options: BenchOptions, mode: str, log: Path) -> Server:
    """A server on its way up; call `wait_ready` next."""
    port = free_port()
    child = Child(serve_command(options, mode, port), log)
    return Server(child, f"127.0.0.1:{port}", mode)


def free_port() -> int:
    """A port that is free now. Another process may take it first: then the server says so and ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

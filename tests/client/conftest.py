"""Scripted servers on free ports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from paceline.v1 import generation_pb2_grpc as pb_grpc
from scripted_server import WAIT_S, ScriptedServer, servicer


@pytest.fixture
def make_server() -> Iterator[Callable[..., ScriptedServer]]:
    """Starts scripted servers; they stop when the test ends."""
    running: list[grpc.Server] = []

    def make(credentials: grpc.ServerCredentials | None = None) -> ScriptedServer:
        scripted = ScriptedServer()
        server = grpc.server(ThreadPoolExecutor(max_workers=8))
        pb_grpc.add_GenerationServiceServicer_to_server(servicer(scripted), server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        running.append(server)
        scripted.target = f"127.0.0.1:{port}"
        return scripted

    yield make
    for server in running:
        server.stop(grace=None).wait(WAIT_S)


@pytest.fixture
def server(make_server: Callable[..., ScriptedServer]) -> ScriptedServer:
    return make_server()

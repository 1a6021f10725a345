"""Two servers behind one client are restarted in turn, under load, and nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mock_serving import WAIT_S, paced
from paceline.client import AsyncClient, FinishReason
from paceline.server.app import App
from paceline.server.config import ServeConfig
from paceline.server.loader import Loaded
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer

READERS = 6
TOKENS = 20


class Fleet:
    """Two servers on ports of their own."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.apps: list[App] = []

    async def start(self, port: int = 0) -> App:
        config = ServeConfig.model_validate({"port": port, "metrics_port": None})
        vocab = self._tokenizer.vocab_size
        app = App(
            config,
            lambda _: Loaded(MockRunner(vocab_size=vocab, on_step=paced(0.002)), self._tokenizer),
        )
        self.apps.append(app)
        await app.bind()
        await app.load()
        return app

    @property
    def targets(self) -> list[str]:
        return [f"127.0.0.1:{app.port}" for app in self.apps[:2]]

    def finished(self, app: App) -> int:
        """Requests that a server has answered."""
        return 0 if app.engine is None else app.engine.load().requests_finished

    async def restart(self, app: App) -> App:
        """As an orchestrator does: drain, end, start anew on the same address, wait until it gets requests."""
        assert await app.drain(asyncio.Event()), "running requests were cut short"
        await app.close()
        again = await self.start(app.port)
        async with AsyncClient(f"127.0.0.1:{again.port}") as operator:
            while not (await operator.load()).requests_finished:
                pass
        return again


@pytest.fixture
async def fleet(tokenizer: Tokenizer) -> AsyncIterator[Fleet]:
    """Two servers that serve."""
    made = Fleet(tokenizer)
    try:
        await made.start()
        await made.start()
        yield made
    finally:
        for app in made.apps:
            await app.close()


async def test_a_rolling_restart_loses_no_request(fleet: Fleet) -> None:
    """Streams and unary calls that come all the while are answered whole, by whichever server is there."""
    stop, answered = asyncio.Event(), 0

    async def read(client: AsyncClient) -> None:
        nonlocal answered
        while not stop.is_set():
            stream = client.stream("x", max_tokens=TOKENS)
            tokens = sum([chunk.num_tokens async for chunk in stream])
            assert stream.finish is not None
            assert (tokens, stream.finish.reason) == (TOKENS, FinishReason.MAX_TOKENS)
            whole = await client.generate("x", max_tokens=TOKENS)
            assert whole.usage.completion_tokens == TOKENS
            answered += 2

    first, second = fleet.apps
    async with (
        asyncio.timeout(WAIT_S),
        AsyncClient(f"ipv4:{','.join(fleet.targets)}") as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(READERS):
            group.create_task(read(client))
        again = await fleet.restart(first)
        await fleet.restart(second)
        await fleet.restart(again)
        stop.set()
    assert answered > 0
    # Nothing was computed twice either: what the engines ended is what readers got.
    assert sum(fleet.finished(app) for app in fleet.apps) == answered


async def test_a_server_that_announces_its_leave_is_passed_over(fleet: Fleet) -> None:
    """Though it would still answer, as it does during the delay for load balancers, it gets no more calls."""
    first, second = fleet.apps
    async with asyncio.timeout(WAIT_S), AsyncClient(fleet.targets) as client:
        while not (fleet.finished(first) and fleet.finished(second)):
            await client.generate("x", max_tokens=1)
        await first.announce()
        before = None
        while before != (before := fleet.finished(first)):
            for _ in range(4):  # in turn, two of these would be the first server's
                await client.generate("x", max_tokens=1)
    async with AsyncClient(fleet.targets[0]) as operator:
        assert (await operator.load()).requests_finished == before
        assert (await operator.generate("x", max_tokens=1)).usage.completion_tokens == 1

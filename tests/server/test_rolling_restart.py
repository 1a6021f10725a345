"""Two servers behind one client are restarted in turn, under load, and nobody notices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mock_serving import paced
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

    async def restart(self, app: App) -> App:
        """As an orchestrator does: drain, end, start anew on the same address, wait until it gets requests."""
        assert await app.drain(asyncio.Event()), "running requests were cut short"
        await app.close()
        again = await self.start(app.port)
        async with AsyncClient(f"127.0.0.1:{again.port}") as operator:
            while not (await operator.load()).requests_finished:
                pass
        return again


@pytest.mark.parametrize("as_text", [False, True])
async def test_a_rolling_restart_loses_no_request(tokenizer: Tokenizer, as_text: bool) -> None:
    """Streams and unary calls that come all the while are answered whole, by whichever server is there."""
    fleet, stop, answered = Fleet(tokenizer), asyncio.Event(), 0

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

    first, second = await fleet.start(), await fleet.start()
    addresses = [f"127.0.0.1:{app.port}" for app in (first, second)]
    target: Any = f"ipv4:{','.join(addresses)}" if as_text else addresses
    try:
        async with asyncio.timeout(60), AsyncClient(target) as client, asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(read(client))
            again = await fleet.restart(first)
            await fleet.restart(second)
            await fleet.restart(again)
            stop.set()
    finally:
        for app in fleet.apps:
            await app.close()
    assert answered > 0
    engines = [app.engine for app in fleet.apps]
    # Nothing was served twice either: what the engines ended is what readers got.
    assert sum(e.load().requests_finished for e in engines if e is not None) == answered

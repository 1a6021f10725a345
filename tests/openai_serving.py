"""A server with OpenAI's API, and the official client of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from openai import AsyncOpenAI

from mock_serving import Served, scripted, serving
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def client_of(served: Served, key: str = "none") -> AsyncOpenAI:
    """It tries nothing twice."""
    url = f"http://127.0.0.1:{served.app.http_port}/v1"
    return AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)


@contextlib.asynccontextmanager
async def saying_abc(tokenizer: Tokenizer) -> AsyncIterator[tuple[Served, AsyncOpenAI]]:
    """A server that says `abc` over and over, and a client of it."""
    runner = MockRunner(vocab_size=tokenizer.vocab_size, choose=scripted(tokenizer, "abc"))
    async with serving(tokenizer, runner, http_port=0) as served, client_of(served) as client:
        yield served, client

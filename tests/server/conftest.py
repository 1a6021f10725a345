"""Parts that the server's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mock_serving import Served, serving
from paceline.server.tokenizer import Tokenizer
from small_tokenizers import byte_level_tokenizer, sentence_piece_like_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer with a chat template; id 0 is `<|start|>`, id 1 is `<|end|>`."""
    return Tokenizer(byte_level_tokenizer())


@pytest.fixture(scope="session")
def word_tokenizer() -> Tokenizer:
    """A tokenizer whose tokens begin with the space before them and whose decoder drops the first one."""
    return Tokenizer(sentence_piece_like_tokenizer())


@pytest.fixture
async def served(tokenizer: Tokenizer) -> AsyncIterator[Served]:
    """A server with default settings on a mock model."""
    async with serving(tokenizer) as running:
        yield running

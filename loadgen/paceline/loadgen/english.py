"""Seeded running text of a wanted length, with a tag in front that no other request has. Pure."""

from __future__ import annotations

import random

from paceline.loadgen.corpus import SENTENCES

TOKENS_PER_WORD = 1.25  # of the corpus, by the tokenizers of GPT-2 and SmolLM2
TAG_TOKENS = 7
NONCES = 1_000_000
TAGS_PER_LEVEL = 10_000


def english(rng: random.Random, words: int) -> str:
    """Exactly `words` words of running text."""
    made: list[str] = []
    while len(made) < words:
        for sentence in rng.sample(SENTENCES, len(SENTENCES)):
            made += sentence.split()
    return " ".join(made[:words])


def text_of(rng: random.Random, tokens: int) -> str:
    """Text of about `tokens` tokens, at least one word."""
    return english(rng, max(1, round(tokens / TOKENS_PER_WORD)))


def tag(index: int, level: int, nonce: int) -> str:
    """Six digits and a full stop: another tag for every request, level and nonce, so that no prefix is shared."""
    return f"{(level * TAGS_PER_LEVEL + index + nonce) % NONCES:06d}."

"""How a server gets its model: a function from settings to a runner and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .config import ServeConfig
from .guidance import Guides
from .runner_port import Runner
from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading gives: a runner that is not warm yet, and the model's tokenizer."""

    runner: Runner
    tokenizer: Tokenizer
    num_threads: int = 1

    def guides(self) -> Guides | None:
        """What constraints are followed with, the vocabulary read; None where the model has nothing for it."""
        info = self.runner.info
        guides = Guides.of(self.tokenizer, info.vocab_size, info.eos_token_ids)
        if guides is not None:
            guides.prepare()
        return guides


Loader = Callable[[ServeConfig], Loaded]

"""What `paceline serve --mock` serves: scripted tokens at a set pace, to measure clients without a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .config import ServeConfig
from .loader import Loaded
from .mock import MockRunner
from .mock_faults import Faults
from .rectangles import Buckets
from .step import Step
from .tokenizer import Tokenizer

CONTEXT_TOKENS = 4096
LETTERS = 60  # tokens 34 to 93 are single printable characters


class Pace:
    """An `on_step` that lets a step begin every `step_s` seconds; 0: at once. A late step is not made up for."""

    def __init__(
        self,
        step_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._step_s = step_s
        self._clock = clock
        self._sleep = sleep
        self._due_s = 0.0

    def __call__(self, _step: Step) -> None:
        now_s = self._clock()
        if now_s < self._due_s:
            self._sleep(self._due_s - now_s)
        # From when it was due, not from when the sleep ended: sleeps that run over do not add up.
        self._due_s = max(self._due_s, now_s) + self._step_s


def load_mock(config: ServeConfig) -> Loaded:
    """A runner whose step costs nothing but its pace, each row a token, and a tokenizer of single bytes."""
    rows = config.max_batch_size
    context = config.max_context_tokens or CONTEXT_TOKENS
    pages_each = -(-context // config.page_size)
    pace = Pace(1 / config.mock_tokens_per_s if config.mock_tokens_per_s else 0.0)
    tokenizer = _tokenizer()
    (opening,) = tokenizer.encode("{")
    faults = Faults(opening, tokenizer.decode)

    def on_step(step: Step) -> None:
        faults(step)
        pace(step)

    runner = MockRunner(
        vocab_size=tokenizer.vocab_size,
        num_pages=1 + rows * pages_each,
        max_context_tokens=context,
        choose=lambda sequence: 34 + sequence.num_output % LETTERS,
        on_step=on_step,
        buckets=Buckets(rows=_powers_of_two(rows)),
    )
    return Loaded(runner, tokenizer)


def _powers_of_two(most: int) -> tuple[int, ...]:
    return tuple(2**n for n in range((most - 1).bit_length() + 1))


def _tokenizer() -> Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    wrap: Any = PreTrainedTokenizerFast  # its constructor has no types
    return Tokenizer(wrap(tokenizer_object=inner))

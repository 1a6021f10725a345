"""A model without weights: the whole service runs on it, without torch, with scripted tokens."""

from __future__ import annotations

import platform
from collections.abc import Callable

from .rectangles import Buckets
from .request import ModelInfo, TokenLogprobs
from .sequence import Sequence
from .step import Sample, Step


def next_token(sequence: Sequence, vocab_size: int) -> int:
    """A token that depends on every token before it: a wrong history shows in what follows."""
    value = 17
    for token in sequence.tokens:
        value = (value * 31 + token + 7) % 1_000_003
    return 3 + value % (vocab_size - 3)


class MockRunner:
    """Implements the engine's `Runner`.

    Args:
        vocab_size: tokens are 3 .. vocab_size - 1; 2 is end-of-sequence and never comes by itself.
        num_pages: pages of the pool, the padding page included.
        max_context_tokens: prompt and output together.
        choose: picks the next token of a sequence; default: a deterministic function of its history.
        on_step: called with each step before it is computed, to look, to wait or to raise.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 256,
        num_pages: int = 512,
        max_context_tokens: int = 2048,
        choose: Callable[[Sequence], int] | None = None,
        on_step: Callable[[Step], None] = lambda _: None,
        buckets: Buckets | None = None,
    ) -> None:
        self.num_pages = num_pages
        self.buckets = buckets or Buckets(rows=(1, 2, 4, 8, 16, 32))
        self.info = ModelInfo(
            name="mock",
            architecture="mock",
            num_parameters=0,
            dtype="none",
            device="none",
            vocab_size=vocab_size,
            max_context_tokens=max_context_tokens,
            eos_token_ids=(2,),
            num_layers=0,
            hidden_size=0,
            versions={"python": platform.python_version()},
        )
        self._choose = choose or (lambda sequence: next_token(sequence, vocab_size))
        self._on_step = on_step

    def warm_up(self) -> None:
        """Nothing is slow the first time."""

    def launch(self, step: Step) -> object:
        self._on_step(step)
        return [self._sample(row.sequence) for row in step.sampling_rows]

    def collect(self, handle: object) -> list[Sample]:
        assert isinstance(handle, list)
        return handle

    def close(self) -> None:
        """Holds nothing."""

    def _sample(self, sequence: Sequence) -> Sample:
        token = self._choose(sequence)
        wanted = sequence.request.logprobs
        if wanted is None:
            return Sample(token)
        top = tuple((3 + i, -1.0 - i) for i in range(wanted))
        return Sample(token, TokenLogprobs(-0.5, top))

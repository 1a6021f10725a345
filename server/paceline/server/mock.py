"""A model without weights: the whole service runs on it, without torch, with scripted tokens."""

from __future__ import annotations

import platform
from collections.abc import Callable

from .rectangles import Buckets
from .request import ModelInfo, TokenLogprobs
from .sequence import Sequence
from .step import Row, Sampled, Step


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
        ahead: whether a step may be launched before the one before it is read back. What the host does
            not know then is remembered here: the newest token of each slot, as a device would.
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
        ahead: bool = False,
    ) -> None:
        self.ahead = ahead
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
        self._newest: dict[int, tuple[int, int]] = {}  # slot -> (position, token)

    def warm_up(self) -> None:
        """Nothing is slow the first time."""

    def launch(self, step: Step) -> object:
        self._on_step(step)
        rows = step.sampling_rows
        tokens = [_guided(row.sequence, self._choose(self._seen_by(row))) for row in rows]
        for row, token in zip(rows, tokens, strict=True):
            self._newest[row.sequence.slot] = (row.end, token)
        logprobs: list[TokenLogprobs | None] | None = None
        if any(row.sequence.request.logprobs is not None for row in rows):
            logprobs = [_logprobs(row.sequence.request.logprobs) for row in rows]
        prompts = [
            (row, [_logprobs(row.sequence.request.prompt_logprobs)] * row.scored)
            for row, _ in step.scored_rows
        ]
        return Sampled(tokens, logprobs, prompts)

    def collect(self, handle: object) -> Sampled:
        assert isinstance(handle, Sampled)
        return handle

    def close(self) -> None:
        """Holds nothing."""

    def _seen_by(self, row: Row) -> Sequence:
        """The row's sequence with the tokens that the device has: the last may not have been read back."""
        sequence = row.sequence
        if len(sequence.tokens) == row.end:
            return sequence
        position, token = self._newest[sequence.slot]
        assert position == row.end - 1 == len(sequence.tokens), "one token may be unknown, not two"
        seen = Sequence(sequence.request, sequence.index, sequence.order)
        seen.tokens = [*sequence.tokens, token]
        return seen


def _guided(sequence: Sequence, token: int) -> int:
    """The scripted token, or where the sequence's constraint bars it, another; -1 where nothing may follow."""
    if sequence.guide is None:
        return token
    import numpy as np

    allowed = np.flatnonzero(np.unpackbits(sequence.allowed().view(np.uint8), bitorder="little"))
    if token in allowed or not len(allowed):
        return token if len(allowed) else -1
    return int(allowed[token % len(allowed)])


def _logprobs(wanted: int | None) -> TokenLogprobs | None:
    if wanted is None:
        return None
    return TokenLogprobs(-0.5, tuple((3 + i, -1.0 - i) for i in range(wanted)))

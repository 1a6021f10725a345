"""What multiplies the lengths of drawn requests. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paceline.loadgen.prompt import WorkloadError


@dataclass(frozen=True, slots=True)
class Scale:
    """Settings of a run that every drawn workload obeys.

    Attributes:
        tokens: factor on the answers alone.
        length: factor on a trace's own lengths, or on a preset's fixed ones; 0 keeps the preset's own factors.
        context_tokens: of the served model, prompt and answer together; 0: unknown, nothing is made to fit.
    """

    seed: int = 0
    nonce: int = 0
    tokens: float = 1.0
    length: float = 0.0
    context_tokens: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tokens) and self.tokens > 0):
            raise WorkloadError(f"the output length factor must be above 0, not {self.tokens}")
        if not (math.isfinite(self.length) and self.length >= 0):
            raise WorkloadError(f"the length factor must be 0 or more, not {self.length}")

    def answer(self, tokens: int) -> int:
        """The tokens of an answer after the factor, at least one."""
        return max(1, round(tokens * self.tokens))

    def notes(self, fit: float) -> str:
        """What was done to the lengths on top, in words; empty where nothing was."""
        told = "" if fit == 1.0 else f"; of which x {fit:g} to fit {self.context_tokens} tokens"
        return told if self.tokens == 1.0 else f"{told}; then outputs x {self.tokens:g}"

    def factors(self, prompt: float, output: float, fit: float) -> dict[str, float]:
        """For header and summary."""
        return {"prompt": prompt, "output": output * self.tokens, "fit": fit}

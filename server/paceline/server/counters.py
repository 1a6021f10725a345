"""What the engine did since start: the numbers behind `Load`."""

from __future__ import annotations

from dataclasses import dataclass

from .step import Step


@dataclass(slots=True)
class Counters:
    """Counters since start, and the shape of the latest step. See `Load` for each one's meaning."""

    steps: int = 0
    step_rows: int = 0
    step_padded_rows: int = 0
    row_steps: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    requests_finished: int = 0

    def saw(self, step: Step) -> None:
        """Counts a planned step."""
        self.steps += 1
        self.step_rows = len(step.rows)
        self.step_padded_rows = step.padded_rows
        self.row_steps += self.step_rows
        self.real_tokens += step.real_tokens
        self.padded_tokens += step.padded_tokens

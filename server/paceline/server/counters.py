"""What the engine did since start: the numbers behind `Load`."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from .step import Step


@dataclass(slots=True)
class Counters:
    """Counters since start, and the shape of the latest step. See `Load` for each one's meaning.

    A step and its tokens count when it is planned, also when it fails later.
    """

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
    shapes: dict[int, int] = field(
        default_factory=dict
    )  # steps by the length of their line of tokens

    def saw(self, step: Step) -> None:
        """Counts a planned step."""
        self.steps += 1
        self.step_rows = len(step.rows)
        self.step_padded_rows = step.padded_rows
        self.row_steps += self.step_rows
        self.real_tokens += step.real_tokens
        self.padded_tokens += step.padded_tokens
        self.shapes[step.line] = self.shapes.get(step.line, 0) + 1


class StepHistory:
    """How many rows shared the steps that were read back. Costs a step the same however many they are."""

    def __init__(self) -> None:
        self.steps = 0
        self.row_steps = 0
        # (number of a step, its rows), rows falling: what is the most since any step is found at once,
        # and there are no more entries than row counts.
        self._peaks: list[tuple[int, int]] = []

    def read_back(self, number: int, row_steps: int) -> None:
        """Step `number` is over; with it, so many rows were computed since start."""
        rows = row_steps - self.row_steps
        self.steps, self.row_steps = number, row_steps
        while self._peaks and self._peaks[-1][1] <= rows:
            self._peaks.pop()
        self._peaks.append((number, rows))

    def most_rows_after(self, number: int) -> int:
        """The most rows of a step after step `number`; 0 when there was none."""
        at = bisect_right(self._peaks, number, key=_number)
        return self._peaks[at][1] if at < len(self._peaks) else 0


def _number(peak: tuple[int, int]) -> int:
    return peak[0]

"""The last minutes of the engine, as the status page draws them. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from .request import Load


@dataclass(frozen=True, slots=True)
class Point:
    """What went on between two samples; `time_s` is the later one's."""

    time_s: float
    running: int
    waiting: int
    tokens_per_s: float  # generated
    batch_rows: float  # mean over the steps
    padding_waste: float  # 1 - real / padded tokens


class History:
    """Keeps the newest `size` samples of the load."""

    def __init__(self, size: int = 121) -> None:
        self._samples: deque[Load] = deque(maxlen=size)

    def add(self, load: Load) -> None:
        self._samples.append(load)

    def points(self) -> list[Point]:
        """One point for each pair of neighbouring samples, oldest first."""
        return [_point(earlier, later) for earlier, later in pairwise(self._samples.copy())]


def _point(earlier: Load, later: Load) -> Point:
    seconds = later.time_s - earlier.time_s
    steps = later.steps - earlier.steps
    padded = later.padded_tokens - earlier.padded_tokens
    real = later.real_tokens - earlier.real_tokens
    tokens = later.output_tokens - earlier.output_tokens
    return Point(
        time_s=later.time_s,
        running=later.running,
        waiting=later.waiting,
        tokens_per_s=tokens / seconds if seconds > 0 else 0.0,
        batch_rows=(later.row_steps - earlier.row_steps) / steps if steps else 0.0,
        padding_waste=1 - real / padded if padded else 0.0,
    )

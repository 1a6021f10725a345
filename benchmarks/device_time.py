"""How long launches take on the GPU, by its own clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch


def median_us(launch: Callable[[], object], repeats: int, replays: int) -> float:
    """Microseconds of a launch on the current stream: the median of so many times, each of `replays` in a row."""
    event: Any = partial(torch.cuda.Event, enable_timing=True)
    times: list[float] = []
    for _ in range(repeats):
        begin, end = event(), event()
        begin.record()
        for _ in range(replays):
            launch()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / replays)
    return statistics.median(times)

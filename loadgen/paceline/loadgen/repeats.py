"""A level that was measured several times: the repeat in the middle, and how far all of them lie apart. Pure.

A level's object in the summary is that of one repeat, the one with the median output throughput, so that its figures
belong together; medians over all repeats and their spread stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any, TypeVar

from paceline.loadgen.units import measured

Level = Mapping[str, Any]
T = TypeVar("T")

# Student's t, two-sided 95 %, by degrees of freedom from 1 on: as many as there may be repeats.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def _median_of(metric: str) -> Callable[[Level], float | None]:
    def read(level: Level) -> float | None:
        value: float | None = level["latency"][measured(level, metric)]["median"]
        return value

    return read


def output_rate(level: Level) -> float | None:
    """Output tokens a second; None where the level has no window."""
    return level["throughput"]["output_tok_s"] if level["throughput"] else None


def _good_rate(level: Level) -> float | None:
    return level["goodput"][0]["req_s"] if level["goodput"] else None


FIGURES: dict[str, Callable[[Level], float | None]] = {
    "output_tok_s": output_rate,
    "ttft_ms": _median_of("ttft_ms"),
    "tpot_ms": _median_of("tpot_ms"),
    "e2e_ms": _median_of("e2e_ms"),
    "goodput_req_s": _good_rate,
}


def joined(found: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """The levels of one mode and target, by the number of their repeat from 1 on, as one level.

    `repeats` is None where it was measured once.
    """
    levels = list(found.values())
    if len(levels) == 1:
        return levels[0] | {"repeats": None}
    middle = middle_one(levels, output_rate)
    figures = {name: spread([read(level) for level in levels]) for name, read in FIGURES.items()}
    number = next(number for number, level in found.items() if level is middle)
    return middle | {"repeats": {"n": len(levels), "shown": number, "figures": figures}}


def middle_one(items: Sequence[T], value: Callable[[T], float | None]) -> T:
    """The item with the median value, of an even number the lower one; those without a value come last."""
    known = [item for item in items if value(item) is not None] or list(items)
    ordered = sorted(known, key=lambda item: value(item) or 0.0)
    return ordered[(len(ordered) - 1) // 2]


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """How repeats lie: their values in order, median, mean with its t interval, variation, noise floor.

    `cv` is the standard deviation over the mean. `noise_floor` is the largest over the smallest value, less 1: two
    runs of the same server differed by that much. None where fewer than two repeats have the figure.
    """
    known = [value for value in values if value is not None]
    made: dict[str, Any] = {"values": list(values), "median": median(known) if known else None}
    empty = dict.fromkeys(("mean", "mean_ci95", "cv", "noise_floor"))
    if len(known) < 2:
        return made | empty
    mean, sd = fmean(known), stdev(known)
    half = T95[len(known) - 2] * sd / math.sqrt(len(known))
    low = min(known)
    return made | {
        "mean": mean,
        "mean_ci95": [mean - half, mean + half],
        "cv": sd / mean if mean else None,
        "noise_floor": max(known) / low - 1 if low > 0 else None,
    }

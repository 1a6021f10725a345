"""The requests behind each level, small enough for a page: columns of a sample, exact curves and histograms. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from paceline.loadgen.distribution import Floats
from paceline.loadgen.outcomes import outcome
from paceline.loadgen.timing import Record

MAX_REQUESTS = 400  # per level: more dots hide each other, and the page grows
CURVE_POINTS = 61
BINS_PER_DECADE = 12
TTFT, TPOT, ITL, E2E = "ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"


def detail(chosen: Sequence[Record], window_s: float | None) -> dict[str, Any]:
    """What the page needs of the requests sent in a level's window.

    `of` says how many there were, `every` that each so-manieth of them, in order of sending, is listed; curves and
    histograms are of all. Latencies are from the schedule in an open loop. `state` has a letter per request: `o` came
    to its own end, `f` failed, was shed or missed its deadline, `c` was cut by the end of the level (its E2E is how
    long it lasted), `p` was cancelled by its workload.
    """
    ordered = sorted(chosen, key=lambda record: record.t_send)
    every = max(1, math.ceil(len(ordered) / MAX_REQUESTS))
    listed = ordered[::every]
    return {
        "of": len(ordered),
        "every": every,
        "window_s": window_s,
        "prompt_tokens": [record.prompt_tokens for record in listed],
        "output_tokens": [record.counted_tokens for record in listed],
        TTFT: [_ms(record.ttft_due_s) for record in listed],
        TPOT: [_ms(record.tpot_s) for record in listed],
        E2E: [_ms(e2e_s(record)) for record in listed],
        "state": "".join(_state(record) for record in listed),
        "curves": _curves(ordered),
    }


def e2e_s(record: Record) -> float:
    """From the schedule where there is one; of a cut request the time it lasted."""
    return record.t_end - (record.t_send if record.t_int is None else record.t_int)


def _state(record: Record) -> str:
    return {"ok": "o", "cut": "c", "cancelled_by_plan": "p"}.get(outcome(record), "f")


def _ms(value: float | None) -> float | None:
    """To the microsecond, as the records are: limits must divide the page's requests as they divide these."""
    return None if value is None else round(1e3 * value, 3)


def _curves(records: Sequence[Record]) -> dict[str, Any]:
    seen = [record for record in records if record.showed]
    ended = [record for record in records if record.ok]
    return {
        TTFT: curve(record.ttft_due_s for record in seen),
        TPOT: curve(record.tpot_s for record in ended),
        ITL: curve(gap for record in seen for gap in record.itl_s),
        E2E: curve(e2e_s(record) for record in ended),
    }


def curve(values_s: Iterable[float | None]) -> dict[str, Any]:
    """`quantiles_ms` at 61 equal steps from the least to the most; `counts` per twelfth of a decade from bin `first`.

    Bin k holds values from 10^(k/12) up to 10^((k+1)/12) milliseconds.
    """
    values: Floats = np.array([1e3 * one for one in values_s if one is not None], dtype=np.float64)
    if not len(values):
        return {"n": 0, "quantiles_ms": [], "first": 0, "counts": []}
    steps = np.quantile(values, np.linspace(0, 1, CURVE_POINTS))
    places = np.floor(BINS_PER_DECADE * np.log10(np.maximum(values, 1e-3))).astype(np.int64)
    first = int(places.min())
    return {
        "n": len(values),
        "quantiles_ms": [float(f"{value:.4g}") for value in steps],
        "first": first,
        "counts": np.bincount(places - first).tolist(),
    }

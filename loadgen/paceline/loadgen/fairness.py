"""Who waits longer: latencies by prompt length and by kind of request. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paceline.loadgen.timing import Record

FEW = 5  # a group of fewer has no median to compare
READ: dict[str, Callable[[Record], float | None]] = {
    "ttft_ms": lambda record: record.ttft_due_s,
    "tpot_ms": lambda record: record.tpot_s,
    "norm_ms_per_tok": lambda record: record.normalised_s,
}
METRICS = tuple(READ)


def fairness(ended: Sequence[Record]) -> dict[str, Any]:
    """Medians per quartile of prompt length and per kind, and how far the groups' medians lie apart.

    `ratio` is the largest of the groups' medians over the median of all requests, of groups with at least five
    values: 1 where nobody waits longer than others. Equal prompts make no quartiles, one kind no kinds: the part is
    None then. TTFT counts from the schedule where there is one.
    """
    return {"by_prompt": _parted(_by_prompt(ended)), "by_kind": _parted(_by_kind(ended))}


def _by_prompt(records: Sequence[Record]) -> dict[str, list[Record]]:
    lengths = np.array([record.prompt_tokens for record in records])
    if not len(lengths):
        return {}
    edges = np.quantile(lengths, (0.25, 0.5, 0.75), method="lower")
    parts: dict[int, list[Record]] = {}
    for record in records:
        parts.setdefault(int(np.searchsorted(edges, record.prompt_tokens)), []).append(record)
    return {_span(parts[place]): parts[place] for place in sorted(parts)}


def _span(records: Sequence[Record]) -> str:
    low = min(record.prompt_tokens for record in records)
    high = max(record.prompt_tokens for record in records)
    return f"{low}–{high}" if high > low else str(low)


def _by_kind(records: Sequence[Record]) -> dict[str, list[Record]]:
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(record.kind or "other", []).append(record)
    return dict(sorted(kinds.items()))


def _parted(groups: Mapping[str, Sequence[Record]]) -> dict[str, Any] | None:
    if len(groups) < 2:
        return None
    parts = [
        {"group": name, "n": len(records)}
        | {metric: _median(records, metric) for metric in METRICS}
        for name, records in groups.items()
    ]
    everyone = [record for records in groups.values() for record in records]
    ratios = {metric: _ratio(parts, metric, _median(everyone, metric)) for metric in METRICS}
    return {"groups": parts, "ratio": ratios}


def _median(records: Sequence[Record], metric: str) -> float | None:
    values = [1e3 * value for record in records if (value := READ[metric](record)) is not None]
    return float(np.median(values)) if len(values) >= FEW else None


def _ratio(parts: Sequence[Mapping[str, Any]], metric: str, middle: float | None) -> float | None:
    known = [part[metric] for part in parts if part[metric]]
    return max(known) / middle if len(known) > 1 and middle else None

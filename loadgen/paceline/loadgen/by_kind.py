"""The figures of a level by the kind of its requests: short and long, parts of a mix, turns, probes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paceline.loadgen.bounds import lower_bounds
from paceline.loadgen.distribution import distribution
from paceline.loadgen.outcomes import outcome_counts
from paceline.loadgen.timing import PROBE_KIND, Record


def by_kind(
    records: Sequence[Record], chosen: Sequence[Record], *, seed: int = 0
) -> list[dict[str, Any]]:
    """One object per kind, probes last; empty where all requests are of one kind.

    Counts are of all `records`, latencies of those `chosen` for the level's figures.
    """
    kinds = sorted({record.kind for record in records}, key=lambda kind: (kind == PROBE_KIND, kind))
    if len(kinds) < 2:
        return []
    return [
        {
            "kind": kind,
            "counts": outcome_counts([one for one in records if one.kind == kind]),
            **_latency([one for one in chosen if one.kind == kind], seed),
        }
        for kind in kinds
    ]


def _latency(chosen: Sequence[Record], seed: int) -> dict[str, Any]:
    ended = [one for one in chosen if one.ok]
    first = (one.ttft_s for one in chosen if one.showed)
    return {
        "lower_bounds": lower_bounds(chosen),
        "ttft_ms": distribution(first, scale=1e3, seed=seed),
        "tpot_ms": distribution((one.tpot_s for one in ended), scale=1e3, seed=seed),
        "e2e_ms": distribution((one.e2e_s for one in ended), scale=1e3, seed=seed),
    }

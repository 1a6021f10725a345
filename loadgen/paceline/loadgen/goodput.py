"""Goodput: the requests, and their tokens, that met an SLO, per second of the window. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paceline.loadgen.slo import Slo
from paceline.loadgen.timing import Record

Z95 = 1.959964


def goodput(chosen: Sequence[Record], window_s: float | None, slo: Slo) -> dict[str, Any]:
    """Attainment and rates of the requests sent in a window of that length.

    Shed, failed and late requests stand in the denominator; those that nobody can judge (cut by the end before
    they broke a limit, cancelled by their own workload) in neither.
    """
    judged = [(record, met) for record in chosen if (met := slo.meets(record)) is not None]
    good = [record for record, met in judged if met]
    tokens = sum(record.counted_tokens for record in good)
    return {
        "slo": slo.name,
        "limits_ms": {limit.key: limit.limit_ms for limit in slo.limits},
        "judged": len(judged),
        "good": len(good),
        "attainment": len(good) / len(judged) if judged else None,
        "attainment_ci95": wilson95(len(good), len(judged)),
        "req_s": len(good) / window_s if window_s else None,
        "tok_s": tokens / window_s if window_s else None,
        "passes": slo.passes(chosen),
    }


def wilson95(hits: int, n: int) -> list[float] | None:
    """Wilson's 95 % interval of a share, which holds at 0 and 1 too; None of nothing."""
    if not n:
        return None
    share, z2 = hits / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return [max(0.0, middle - half), min(1.0, middle + half)]

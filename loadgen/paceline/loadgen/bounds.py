"""Which latencies of a level say only "at least", as too many of their requests never came to their end. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.loadgen.timing import Record
from paceline.loadgen.wording import NONE

CUT_SHARE = 0.1  # above it, what the cut requests would have shown moves the median


def lower_bounds(chosen: Sequence[Record]) -> list[str]:
    """The metrics that the end of the level or a deadline censored: the slowest requests are the ones that are cut.

    TTFT lacks those that were cut before their first token, what counts to the end lacks all that were cut.
    """
    seen = [record for record in chosen if record.ok or record.censored]
    limit = CUT_SHARE * len(seen)
    found = ["ttft_ms"] if sum(r.censored and not r.stamps_us for r in seen) > limit else []
    return found + (["e2e_ms", "norm_ms_per_tok"] if sum(r.censored for r in seen) > limit else [])


def is_bound(level: Mapping[str, Any], metric: str) -> bool:
    """Whether this latency of a level of the summary is a lower bound."""
    return metric in level["lower_bounds"]


def at_least(text: str, bound: bool) -> str:
    """The printed figure, marked where it is a lower bound."""
    return f"≥ {text}" if bound and text != NONE else text

"""The loads of several engines as one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..request import Load

_SUMS = (
    *("running", "waiting", "waiting_tokens", "pages_used", "pages_total"),
    *("step_rows", "step_padded_rows", "steps", "real_tokens", "padded_tokens"),
    *("prompt_tokens", "output_tokens", "cached_tokens", "preemptions"),
    *("requests_finished", "requests_rejected", "step_s", "row_steps"),
)


def total(loads: Sequence[Load | None]) -> Load:
    """What engines do together: sums, but the latest time and the shortest wait, for there a request would go.

    Args:
        loads: in the order of the engines; None of one that is down.
    """
    known = [load for load in loads if load is not None]
    return Load(
        time_s=max((load.time_s for load in known), default=0.0),
        queue_wait_s=min((load.queue_wait_s for load in known), default=0.0),
        draining=any(load.draining for load in known),
        step_bins=_sums([load.step_bins for load in known if load.step_bins]),
        bucket_steps=dict(sum((Counter(load.bucket_steps) for load in known), Counter[int]())),
        replicas=tuple(load or Load() for load in loads),
        **{name: sum(getattr(load, name) for load in known) for name in _SUMS},
    )


def _sums(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))

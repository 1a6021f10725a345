"""How requests came to their ends: every one counts in exactly one class. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from paceline.loadgen.timing import Record

SHED = "RESOURCE_EXHAUSTED"


def outcome(record: Record) -> str:
    """`cut` by the end of the run, `cancelled_by_plan`, `missed_deadline`, `ok`, `shed`, `failed`,
    or `dropped`, as it was never sent."""
    if record.dropped:
        return "dropped"
    if record.cut:
        return "cut"
    if record.cancelled_by_plan:
        return "cancelled_by_plan"
    if record.missed_deadline:
        return "missed_deadline"
    if record.status == SHED:
        return "shed"
    return "ok" if record.status == "OK" else "failed"


def outcome_counts(records: Sequence[Record]) -> dict[str, Any]:
    """Requests by their ends; they add up to `sent`. Only `shed` and `failed` are the server's fault."""
    ends = Counter(outcome(record) for record in records)
    statuses = Counter(record.status for record in records if outcome(record) == "failed")
    return {
        "sent": len(records),
        "ok": ends["ok"],
        "shed": ends["shed"],
        "failed_by_status": dict(sorted(statuses.items())),
        "failed": ends["failed"],
        "missed_deadline": ends["missed_deadline"],
        "cancelled_by_plan": ends["cancelled_by_plan"],
        "cut": ends["cut"],
    }

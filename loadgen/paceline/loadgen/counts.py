"""How many requests of a level came to which end, in all and by kind. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from paceline.loadgen.timing import Record

SHED = "RESOURCE_EXHAUSTED"


def counts(records: Sequence[Record], chosen: Sequence[Record]) -> dict[str, Any]:
    """All requests of the level; `chosen` are those behind its latencies."""
    found = ends(records)
    by_kind = {
        kind or "other": ends([record for record in records if record.kind == kind])
        for kind in sorted({record.kind for record in records})
    }
    return found | {
        "warmup": sum(not r.measured for r in records),
        "in_latencies": len(chosen),
        "cut_before_first_token": sum(r.cut and not r.stamps_us for r in chosen),
        "by_kind": by_kind if any(record.kind for record in records) else {},
    }


def ends(records: Sequence[Record]) -> dict[str, Any]:
    """Sent, and how they ended: each request is in one of ok, shed, failed, cancelled and cut."""
    own = [r for r in records if not (r.cut or r.cancelled_by_plan)]
    by_status = Counter(r.status for r in own)
    failed = {status: n for status, n in sorted(by_status.items()) if status not in ("OK", SHED)}
    return {
        "sent": len(records),
        "ok": by_status["OK"],
        "shed": by_status[SHED],
        "failed_by_status": failed,
        "failed": sum(failed.values()),
        "cancelled": sum(r.cancelled_by_plan and not r.cut for r in records),
        "cut": sum(r.cut for r in records),
    }

"""What the load generator's own samples say of one level, and who was the limit. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paceline.loadgen.series import Sample

FULL_PCT = 85.0
LATE_LOOP_MS = 10.0
BUSY_SHARE = 0.9


def read_health(folder: Path) -> list[Sample]:
    """Every whole line of `client.*.jsonl`, in order of time."""
    samples = []
    for path in sorted(folder.glob("client.*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                samples.append(json.loads(line))
            except ValueError:  # the last line of a process that was killed
                continue
    return sorted(samples, key=lambda sample: float(sample["t"]))


def client_figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """Of one span of time, per process and the worst of them; `cpu_pct` is that of all together.

    None where there are no samples: they come about twice a second.
    """
    workers = sorted({sample["worker"] for sample in samples})
    processes = [_process([s for s in samples if s["worker"] == worker]) for worker in workers]
    return {
        "cpu_pct": sum(one["cpu_pct"] for one in processes) if processes else None,
        "cpu_pct_busiest": _worst(processes, "cpu_pct"),
        "loop_lag_p99_ms": _worst(processes, "loop_lag_p99_ms"),
        "gc_pause_max_ms": _worst(processes, "gc_pause_max_ms"),
        "pool_busy_share": _worst(processes, "pool_busy_share"),
        "processes": processes,
    }


def _process(samples: Sequence[Sample]) -> dict[str, Any]:
    lags = sorted(lag for sample in samples for lag in sample["lag_ms"])
    pauses = [pause for sample in samples for pause in sample["gc_ms"]]
    return {
        "worker": samples[0]["worker"],
        "cpu_pct": sum(sample["cpu_pct"] for sample in samples) / len(samples),
        # The nearest rank: with few wake-ups the largest, never one that was not seen.
        "loop_lag_p99_ms": lags[min(len(lags) - 1, len(lags) * 99 // 100)] if lags else None,
        "loop_lag_max_ms": max(lags, default=None),
        "gc_pause_max_ms": max(pauses, default=0.0),
        "pool_busy_share": max(s["pool_busy"] / s["pool_max"] for s in samples),
    }


def _worst(processes: Iterable[Mapping[str, Any]], name: str) -> float | None:
    return max((one[name] for one in processes if one[name] is not None), default=None)


def limit_of(server: Mapping[str, Any], client: Mapping[str, Any]) -> dict[str, Any]:
    """Who held the level back: the load generator, else the server if it was busy, else nobody that is known.

    `reasons` says what of the load generator was at its limit, in words.
    """
    reasons = client_limits(client)
    busy = server.get("busy_share")
    who = "server" if busy is not None and busy >= BUSY_SHARE else "unknown"
    return {
        "who": "client" if reasons else who,
        "busy_share": busy,
        "client_cpu_pct": _busiest(client),
        "reasons": reasons,
    }


def client_limits(client: Mapping[str, Any]) -> list[str]:
    """What makes a level's figures doubtful from the client's side; nothing where it kept up."""
    found = []
    cpu, lag = _busiest(client), client.get("loop_lag_p99_ms")
    if cpu is not None and cpu > FULL_PCT:
        found.append(f"a process used {cpu:.0f} % of a core")
    if lag is not None and lag > LATE_LOOP_MS:
        found.append(f"its event loop was {lag:.0f} ms late (p99)")
    if client.get("dispatch_degraded"):
        found.append("it sent later than scheduled")
    return found


def _busiest(client: Mapping[str, Any]) -> float | None:
    """CPU of the busiest process, or of all together where single ones were not seen."""
    busiest: float | None = client.get("cpu_pct_busiest")
    return client.get("cpu_pct") if busiest is None else busiest

"""The summary of one level, as `summary.json` holds it. Pure: no clock, seeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from paceline.loadgen.bounds import lower_bounds
from paceline.loadgen.by_kind import by_kind
from paceline.loadgen.detail import detail
from paceline.loadgen.distribution import distribution
from paceline.loadgen.fairness import fairness
from paceline.loadgen.goodput import goodput
from paceline.loadgen.outcomes import outcome_counts
from paceline.loadgen.slo import DEFAULT, PRESETS, Slo
from paceline.loadgen.timing import Record, without_probes
from paceline.loadgen.window import (
    Window,
    in_flight_steps,
    littles_law,
    open_window,
    steady_window,
    throughput,
)

LATE_MS, LATE_SHARE = 10.0, 0.01
DEFAULT_SLOS = tuple(PRESETS[name] for name in DEFAULT)


def target_of(record: Record) -> float:
    """What its level is known by: requests a second in an open loop, else requests in flight."""
    return record.level if record.rate is None else record.rate


def group_levels(records: Iterable[Record]) -> dict[float, list[Record]]:
    """The records of each target, levels in the order in which they were run."""
    levels: dict[float, list[Record]] = {}
    for record in sorted(records, key=lambda r: r.t_send):
        levels.setdefault(target_of(record), []).append(record)
    return levels


def summarise_level(
    records: Sequence[Record],
    target: float,
    *,
    seed: int = 0,
    slos: Sequence[Slo] = DEFAULT_SLOS,
) -> dict[str, Any]:
    """The level object of the summary. Keys carry the unit; moments are `perf_counter` seconds.

    Latencies are of requests sent in the steady window after warm-up. Tokens count where they
    arrived, so requests that straddle an edge count in part. TTFT, ITL and stall include requests
    cut by the end of the level, cancelled by plan or late for a deadline, for what they show is true;
    TPOT and E2E only those that ended by themselves. `lower_bounds` names the latencies for which
    too many were cut. Probes beside the load count in no figure but their own, in `kinds`.
    """
    everything, load = records, without_probes(records)
    records = [record for record in load if not record.dropped]
    scheduled = any(record.rate is not None for record in records)
    verdict, window, reason = (
        open_window(records) if scheduled else steady_window(records, int(target))
    )
    chosen = latency_records(records, window)
    seconds = window.seconds if window else None
    judged = latency_records(load, window)
    sent = [record for record in everything if not record.dropped]
    return {
        "target": {"kind": "rate" if scheduled else "concurrency", "value": target},
        "achieved": _achieved(records, window),
        "phases": _phases(records, window),
        "stable": {"verdict": verdict, "reason": reason},
        "counts": _counts(records, chosen),
        "kinds": by_kind(sent, latency_records(sent, window), seed=seed),
        "throughput": throughput(records, window, seed=seed) if window else None,
        "latency": _latency(chosen, seed),
        "lower_bounds": lower_bounds(chosen),
        "goodput": [goodput(judged, seconds, slo) for slo in slos],
        "fairness": fairness([record for record in chosen if record.ok]),
        "server": _server(chosen, seed),
        "client": _dispatch(chosen, seed) | _unkept(load),
        "integrity": _integrity(records),
        "detail": detail(chosen, seconds),
    }


def latency_records(records: Sequence[Record], window: Window | None) -> list[Record]:
    """The requests behind a level's latencies: sent in its window, after warm-up."""
    if window is None:
        return []
    return [r for r in records if r.measured and window.start_s <= r.t_send <= window.end_s]


def _achieved(records: Sequence[Record], window: Window | None) -> dict[str, Any]:
    peak = max((flying for _, flying in in_flight_steps(records)), default=0)
    if window is None:
        return {"concurrency": None, "concurrency_peak": peak, "littles_law": None}
    law = littles_law(records, window)
    return {"concurrency": law["in_flight"], "concurrency_peak": peak, "littles_law": law}


def _phases(records: Sequence[Record], window: Window | None) -> dict[str, Any]:
    if not records:
        return {}
    begin, end = min(r.t_send for r in records), max(r.t_end for r in records)
    last_send = max(r.t_send for r in records)
    first = min((r.t_send for r in records if r.measured), default=end)
    phases = {"warmup": _span(begin, first), "sending": _span(first, last_send)}
    if window is not None:
        phases["window"] = _span(window.start_s, window.end_s)
    return phases | {"drain": _span(last_send, end)}


def _span(start_s: float, end_s: float) -> dict[str, float]:
    return {"start_s": start_s, "end_s": end_s}


def _counts(records: Sequence[Record], chosen: Sequence[Record]) -> dict[str, Any]:
    return outcome_counts(records) | {
        "warmup": sum(not r.measured for r in records),
        "in_latencies": len(chosen),
        "cut_before_first_token": sum(r.cut and not r.stamps_us for r in chosen),
    }


def _latency(chosen: Sequence[Record], seed: int) -> dict[str, Any]:
    seen = [r for r in chosen if r.showed]
    ended = [r for r in chosen if r.ok]
    return {
        "ttft_ms": distribution((r.ttft_s for r in seen), scale=1e3, seed=seed),
        "tpot_ms": distribution((r.tpot_s for r in ended), scale=1e3, seed=seed),
        "itl_ms": distribution((gap for r in seen for gap in r.itl_s), scale=1e3, seed=seed),
        "stall_ms": distribution((r.stall_s for r in seen), scale=1e3, seed=seed),
        "e2e_ms": distribution((r.e2e_s for r in ended), scale=1e3, seed=seed),
        "norm_ms_per_tok": distribution((r.normalised_s for r in ended), scale=1e3, seed=seed),
        "interactivity_tok_s": distribution((r.interactivity for r in ended), seed=seed),
        "ttft_sched_ms": distribution((r.ttft_scheduled_s for r in seen), scale=1e3, seed=seed),
        "e2e_sched_ms": distribution((r.e2e_scheduled_s for r in ended), scale=1e3, seed=seed),
    }


def _dispatch(chosen: Sequence[Record], seed: int) -> dict[str, Any]:
    """How late an open loop's sends were; degraded if p99 > max(10 ms, 1 % of the median TTFT)."""
    late = distribution((r.dispatch_delay_s for r in chosen), scale=1e3, seed=seed)
    ttft = distribution((r.ttft_s for r in chosen), scale=1e3, seed=seed)["median"]
    worst = late["p99"] if late["p99"] is not None else late["max"]
    degraded = None if worst is None else worst > max(LATE_MS, LATE_SHARE * (ttft or 0.0))
    return {"dispatch_ms": late, "dispatch_degraded": degraded}


def _unkept(records: Sequence[Record]) -> dict[str, Any]:
    """Where the schedule was not kept: arrivals that were not sent, and sends later than 10 ms after their time."""
    delays = [r.dispatch_delay_s for r in records if not r.dropped]
    return {
        "arrivals": sum(r.t_int is not None for r in records),
        "dropped": sum(r.dropped for r in records),
        "late": sum(delay is not None and delay * 1e3 > LATE_MS for delay in delays),
    }


def _server(chosen: Sequence[Record], seed: int) -> dict[str, Any]:
    """Where the time went by the server's own clock; `remainder_ms` is network and client."""
    timings = [r.server for r in chosen if r.ok and r.server is not None]
    return {
        "queue_ms": distribution((t.queue_ms for t in timings), seed=seed),
        "prefill_ms": distribution((t.prefill_ms for t in timings), seed=seed),
        "decode_ms": distribution((t.decode_ms for t in timings), seed=seed),
        "batch_rows_mean": distribution((t.batch_rows_mean for t in timings), seed=seed),
        "remainder_ms": distribution((r.remainder_s for r in chosen if r.ok), scale=1e3, seed=seed),
    }


def _integrity(records: Sequence[Record]) -> dict[str, Any]:
    """Did every token arrive, and were there as many as asked for?"""
    ended = [r for r in records if r.ok]
    return {
        "sequence_gaps": sum(r.gap for r in records),
        "token_mismatch": sum(r.counted_tokens != r.output_tokens for r in ended),
        "length_mismatch": sum(r.output_tokens != r.requested_tokens for r in ended),
        "finish_reasons": dict(sorted(Counter(r.finish for r in ended).items())),
        "prompt_tokens": sum(r.prompt_tokens for r in ended),
        "output_tokens": sum(r.counted_tokens for r in records),
        "cached_tokens": sum(r.cached_tokens for r in ended),
    }

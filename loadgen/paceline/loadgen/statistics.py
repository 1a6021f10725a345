"""The summary of one closed-loop level, as `summary.json` holds it. Pure: no clock, seeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from paceline.loadgen.bounds import lower_bounds
from paceline.loadgen.by_kind import by_kind
from paceline.loadgen.distribution import distribution
from paceline.loadgen.outcomes import outcome_counts
from paceline.loadgen.timing import PROBE_KIND, Record
from paceline.loadgen.window import (
    Window,
    in_flight_steps,
    littles_law,
    steady_window,
    throughput,
)


def group_levels(records: Iterable[Record]) -> dict[int, list[Record]]:
    """The records of each target concurrency, levels in the order in which they were run."""
    levels: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda r: r.t_send):
        levels.setdefault(record.level, []).append(record)
    return levels


def summarise_level(records: Sequence[Record], target: int, *, seed: int = 0) -> dict[str, Any]:
    """The level object of the summary. Keys carry the unit; moments are `perf_counter` seconds.

    Latencies are of requests sent in the steady window after warm-up. Tokens count where they
    arrived, so requests that straddle an edge count in part. TTFT, ITL and stall include requests
    cut by the end of the level, cancelled by plan or late for a deadline, for what they show is true;
    TPOT and E2E only those that ended by themselves. `lower_bounds` names the latencies for which
    too many were cut. Probes beside the load count in no figure but their own, in `kinds`.
    """
    everything, records = records, [r for r in records if r.kind != PROBE_KIND]
    verdict, window, reason = steady_window(records, target)
    chosen = _latency_records(records, window)
    return {
        "target": {"kind": "concurrency", "value": target},
        "achieved": _achieved(records, window),
        "phases": _phases(records, window),
        "stable": {"verdict": verdict, "reason": reason},
        "counts": _counts(records, chosen),
        "kinds": by_kind(everything, _latency_records(everything, window), seed=seed),
        "throughput": throughput(records, window, seed=seed) if window else None,
        "latency": _latency(chosen, seed),
        "lower_bounds": lower_bounds(chosen),
        "server": _server(chosen, seed),
        "integrity": _integrity(records),
    }


def _latency_records(records: Sequence[Record], window: Window | None) -> list[Record]:
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

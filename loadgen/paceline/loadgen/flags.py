"""What a reader must know of a run at a glance: what went well, and what to doubt. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.loadgen import open_words
from paceline.loadgen.systems import system
from paceline.loadgen.units import is_open, size
from paceline.loadgen.wording import listing, percent

Summary = Mapping[str, Any]
FEW = 10  # requests behind a median


def flags(summary: Summary, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """`kind` (good, note, warn) and `text` of each; `found` are the run's verdicts."""
    told = []
    if summary["run"].get("partial"):
        why = summary["run"].get("partial_reason") or "the run ended early"
        told.append(_flag("warn", f"Partial: {why}"))
    told += [
        _flag("warn", f"{system(s['mode']).label}: {s['error']}")
        for s in summary["systems"]
        if s["error"]
    ]
    weak = [one for one in summary["levels"] if one["stable"]["verdict"] != "steady"]
    if weak:
        told.append(_flag("warn", f"Not steady: {_where(weak, summary)}"))
    if is_open(summary):
        told += [_flag(kind, text) for kind, text in open_words.flags(summary)]
    doubts = _latency_flags(summary)
    told += doubts
    told += _integrity_flags(summary)
    told += _repeat_flags(summary)
    told.append(_limit_flag(found["limit"]))
    told += [_goodput_flag(one) for one in found["best_goodput"]]
    if not weak and not doubts and summary["levels"]:
        told.append(_flag("good", "Every level reached a steady state"))
    return told


def _latency_flags(summary: Summary) -> list[dict[str, str]]:
    """What there is to doubt about latencies; a level is named for the worst of it."""
    levels = summary["levels"]
    few = [one for one in levels if _shown(one) < FEW]
    bound = [one for one in levels if one["lower_bounds"]]
    unsettled = [
        one
        for one in levels
        if (law := one["achieved"]["littles_law"]) and not law["ok"] and not one["lower_bounds"]
    ]
    texts = {
        f"Latencies of fewer than {FEW} requests": few,
        "Latencies are lower bounds (≥), as over 10 % of the requests were cut or missed their deadline": bound,
        "Requests in flight and their latencies do not fit together (Little's law)": unsettled,
    }
    return [
        _flag("note", f"{text}: {_where(chosen, summary)}")
        for text, chosen in texts.items()
        if chosen
    ]


def _shown(level: Mapping[str, Any]) -> int:
    """Requests behind the fewer of the two medians: cut ones have no end, some no first token."""
    counts: list[int] = [level["latency"][metric]["n"] for metric in ("ttft_ms", "e2e_ms")]
    return min(counts)


def _where(levels: list[dict[str, Any]], summary: Summary) -> str:
    """Names of a few levels, or how many they are."""
    if len(levels) > 4:
        return f"{len(levels)} of {len(summary['levels'])} levels"
    return listing([f"{system(one['mode']).short} at {size(one)}" for one in levels])


def _repeat_flags(summary: Summary) -> list[dict[str, str]]:
    """How far the repeats of the noisiest level lie apart."""
    levels = [one for one in summary["levels"] if one["repeats"]]
    floors = [one["repeats"]["figures"]["output_tok_s"]["noise_floor"] for one in levels]
    known = [floor for floor in floors if floor is not None]
    if not known:
        return []
    most = max(one["repeats"]["n"] for one in levels)
    text = f"Measured {most} times: throughputs of the same level differ by at most"
    return [_flag("note", f"{text} {percent(max(known))}")]


def _integrity_flags(summary: Summary) -> list[dict[str, str]]:
    levels = summary["levels"]
    failed = sum(one["counts"]["failed"] + one["counts"]["shed"] for one in levels)
    odd = sum(
        one["integrity"]["token_mismatch"] + one["integrity"]["sequence_gaps"] for one in levels
    )
    flags = []
    if failed:
        flags.append(_flag("warn", f"{failed} requests failed or were refused"))
    if odd:
        flags.append(_flag("warn", f"{odd} requests whose tokens did not add up"))
    cached = [one for one in levels if one["integrity"]["cached_tokens"]]
    if cached:
        share = sum(one["integrity"]["cached_tokens"] for one in cached) / sum(
            one["integrity"]["prompt_tokens"] for one in cached
        )
        text = (
            f"{percent(share)} of the prompt tokens came from the prefix cache, not from the model"
        )
        flags.append(_flag("note", f"{text}: {_where(cached, summary)}"))
    if levels and not failed and not odd:
        sent = sum(one["counts"]["sent"] for one in levels)
        flags.append(_flag("good", f"{sent:,} requests, none failed, every token accounted for"))
    return flags


def _limit_flag(limit: Mapping[str, Any]) -> dict[str, str]:
    texts = {
        "server": f"The server was the limit: busy {percent(limit['busy_share'])} of the time",
        "client": "The load generator was the limit, the server may do more than shown: "
        + listing(limit["reasons"] or ["it was full"]),
        "unknown": "Who was the limit is not known: neither server nor load generator was full",
    }
    if limit["who"] == "unknown" and limit["busy_share"] is None:
        texts["unknown"] = "Who was the limit is not known: this server does not say how busy it is"
    return _flag(
        {"server": "good", "client": "warn"}.get(limit["who"], "note"), texts[limit["who"]]
    )


def _goodput_flag(best: Mapping[str, Any]) -> dict[str, str]:
    size = f"{best['value']:g}{' in flight' if best['kind'] == 'concurrency' else ' a second'}"
    text = f"Best goodput under {best['slo']}: {best['req_s']:.1f} requests/s,"
    text += f" {system(best['mode']).label.lower()} at {size}, {percent(best['attainment'])} good"
    return _flag("note", text)


def _flag(kind: str, text: str) -> dict[str, str]:
    return {"kind": kind, "text": text}

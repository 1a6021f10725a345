"""Pictures of time as plain numbers: rows and tokens along a run, and which request sat in which row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from paceline.loadgen.outcomes import outcome
from paceline.loadgen.series import Sample, between
from paceline.loadgen.timing import Record

MAX_POINTS = 420
MAX_DOTS = 800
LANE_WINDOW_S = 12.0
LANE_SHARE = 0.7  # of a level: its opening wave and its drain are left out
HANDOVER_S = 0.004

UNSERVED = ("failed", "shed", "missed_deadline", "dropped")

Span = tuple[float, float, str]


def token_rates(
    records: Sequence[Record], start_s: float, end_s: float, bins: int
) -> tuple[list[float], list[float]]:
    """Output tokens per second by arrival, in equal bins of [start, end]: (middles from the start on, rates)."""
    width = (end_s - start_s) / bins
    counts = [0] * bins
    for record in records:
        for at, tokens in zip(record.arrivals_s, record.tokens, strict=True):
            if start_s <= at < end_s:
                counts[min(bins - 1, int((at - start_s) / width))] += tokens
    middles = [round((i + 0.5) * width, 2) for i in range(bins)]
    return middles, [round(count / width, 1) for count in counts]


def occupancy(samples: Sequence[Sample], records: Sequence[Record]) -> dict[str, Any] | None:
    """Rows at work, rows paid for, waiting requests and tokens/s of one mode; times count from its first request."""
    if not records or len(samples) < 2:
        return None
    start = min(record.t_send for record in records)
    end = max(record.t_end for record in records)
    inside = between(samples, start, end)
    inside = inside[:: max(1, -(-len(inside) // MAX_POINTS))]
    if len(inside) < 2:
        return None
    rows, padded = _rows(inside)
    bins = max(8, min(150, int(end - start)))
    middles, rates = token_rates(records, start, end, bins)
    return {
        "start_s": start,
        "t_s": [round(sample["t"] - start, 2) for sample in inside],
        "rows": rows,
        "padded_rows": padded,
        "running": [sample["running"] for sample in inside],
        "waiting": [sample["waiting"] for sample in inside],
        "rate_t_s": middles,
        "client_tok_s": rates,
        "kv_share": [_share(sample["pages_used"], sample["pages_total"]) for sample in inside],
        "ttft": ttft_dots(records, start),
        "preempted": _grown(inside, "preemptions"),
        "rejected": _grown(inside, "requests_rejected"),
        "unserved": unserved(records, start),
    }


def _grown(samples: Sequence[Sample], key: str) -> list[int]:
    """By how much a counter grew since the sample before."""
    return [0, *(later[key] - before[key] for before, later in pairwise(samples))]


def unserved(records: Sequence[Record], start_s: float) -> dict[str, Any]:
    """(end, how it ended) of each `every`-th request that the server shed or failed, that missed its deadline or was
    dropped, by its end; `of` all of them.
    """
    seen = sorted((record.t_end, end) for record in records if (end := outcome(record)) in UNSERVED)
    every = max(1, -(-len(seen) // MAX_DOTS))
    marks = [[round(at - start_s, 2), end] for at, end in seen[::every]]
    return {"of": len(seen), "every": every, "marks": marks}


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 3) if whole else None


def ttft_dots(records: Sequence[Record], start_s: float) -> dict[str, Any]:
    """(moment of the first token, TTFT in ms) of each `every`-th request that had one, by arrival; `of` all of them.

    TTFT counts from the schedule where there is one.
    """
    seen = sorted(
        (record.arrivals_s[0], ttft)
        for record in records
        if (ttft := record.ttft_due_s) is not None
    )
    every = max(1, -(-len(seen) // MAX_DOTS))
    dots = [[round(at - start_s, 2), float(f"{1e3 * ttft:.4g}")] for at, ttft in seen[::every]]
    return {"of": len(seen), "every": every, "dots": dots}


def _rows(samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
    """Rows of the latest step, at work and padded; zero where nothing runs and no step ran since the sample before."""
    rows, padded, steps = [], [], -1
    for sample in samples:
        worked = sample["steps"] != steps or sample["running"] > 0
        steps = sample["steps"]
        rows.append(sample["step_rows"] if worked else 0)
        padded.append(max(sample["step_padded_rows"], sample["step_rows"]) if worked else 0)
    return rows, padded


def lanes(modes: Mapping[str, Sequence[Record]], level: int) -> dict[str, Any]:
    """Requests of one level laid into `level` rows by the time the server worked on them, per mode.

    A bar runs from the end of the queue wait to the last token; all modes show spans of one length from the
    middle of the level. `filled`, the share of the rows' time under bars, says how full the batch was kept.
    """
    spans = {mode: _spans(records, level) for mode, records in modes.items()}
    lengths = [_length(found) for found in spans.values() if found]
    if not lengths:
        return {}
    seconds = min(LANE_WINDOW_S, LANE_SHARE * min(lengths))
    return {mode: _lay(found, level, seconds) for mode, found in spans.items() if found}


def _spans(records: Sequence[Record], level: int) -> list[Span]:
    """(begin, end, words) of every request of the level that had a token, by begin.

    One that was cut never got the server's timings: its bar begins with its first token.
    """
    spans = []
    for record in records:
        if record.level != level or not record.stamps_us:
            continue
        ttft_s = record.stamps_us[0] / 1e6
        queue_s = record.server.queue_ms / 1e3 if record.server else ttft_s
        begin, last = record.t_send + queue_s, record.arrivals_s[-1]
        end = max(begin, record.t_end if record.cut else last)
        tokens = f"{record.prompt_tokens} prompt + {record.counted_tokens} output tokens"
        words = f"{tokens}\nwaited {queue_s:.2f} s, served in {end - begin:.2f} s"
        spans.append((begin, end, words))
    return sorted(spans)


def _length(spans: Sequence[Span]) -> float:
    return max(end for _, end, _ in spans) - spans[0][0]


def _lay(spans: Sequence[Span], level: int, seconds: float) -> dict[str, Any]:
    start = spans[0][0] + (_length(spans) - seconds) / 2
    free_at = [0.0] * level
    rows: list[list[Span]] = [[] for _ in range(level)]
    for begin, end, words in spans:
        row = _free_row(free_at, begin)
        free_at[row] = end
        left, right = max(begin, start), min(end, start + seconds)
        if right > left:
            rows[row].append((round(left - start, 3), round(right - start, 3), words))
    covered = sum(right - left for row in rows for left, right, _ in row)
    filled = min(1.0, covered / (seconds * level)) if seconds else 0.0
    return {"level": level, "seconds": round(seconds, 2), "filled": filled, "rows": rows}


def _free_row(free_at: Sequence[float], begin: float) -> int:
    """The row that fell free last before `begin`: a row whose request just ended is refilled first."""
    free = [row for row, at in enumerate(free_at) if at <= begin + HANDOVER_S]
    if not free:
        return min(range(len(free_at)), key=free_at.__getitem__)
    return max(free, key=lambda row: (free_at[row], -row))


def level_spans(records: Sequence[Record]) -> list[tuple[float, float, float]]:
    """(level, start, end) in order: from its first request to the next level's first, the last to its end."""
    firsts: dict[float, float] = {}
    for record in records:
        level = record.level if record.rate is None else record.rate
        firsts[level] = min(firsts.get(level, record.t_send), record.t_send)
    ordered = sorted(firsts.items(), key=lambda item: item[1])
    last = max((record.t_end for record in records), default=0.0)
    edges = [*(start for _, start in ordered), last]
    levels = [level for level, _ in ordered]
    return [(level, *span) for level, span in zip(levels, pairwise(edges), strict=True)]

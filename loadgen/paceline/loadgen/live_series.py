"""The live figures as the page's charts read them: one JSON answer. Pure."""

from __future__ import annotations

from typing import Any

from paceline.loadgen.histogram import Histogram
from paceline.loadgen.live import Live, Slot
from paceline.loadgen.live_tables import figure_rows
from paceline.loadgen.series import padding_waste

SMOOTH = 3  # seconds: workers' clocks tick apart from each other
DRAWN = 300  # seconds


def series(live: Live, now_s: float, *, state: str) -> dict[str, Any]:
    """`times` in seconds since the run's begin, one list a line with None for what nobody knows, and the table."""
    slots = live.slots
    told = [place for place, slot in slots.items() if slot.in_flight]
    last = max(told, default=-1)
    places = range(max(min(slots, default=0), last - DRAWN), last + 1) if told else range(0)
    return {
        "state": state,
        "slo": live.slo,
        "level": live.level,
        "times": list(places),
        "lines": _lines(slots, places),
        "rows": figure_rows(live, now_s),
    }


def _lines(slots: dict[int, Slot], places: range) -> dict[str, list[float | None]]:
    windows = [[slots[p] for p in range(at - SMOOTH + 1, at + 1) if p in slots] for at in places]
    timed = list(zip(windows, places, strict=True))
    ended: dict[str, list[float | None]] = {
        f"{end}_s": [_ended_s(window, at, end) for window, at in timed]
        for end in ("ok", "shed", "failed")
    }
    return ended | {
        "tok_s": [_tok_s(window, at) for window, at in timed],
        "ttft_p50": [_quantile(window, "ttft", 0.5) for window in windows],
        "ttft_p90": [_quantile(window, "ttft", 0.9) for window in windows],
        "tpot_p50": [_quantile(window, "tpot", 0.5) for window in windows],
        "in_flight": _flying(slots, places),
        "running": [_sampled(slots, at, "running") for at in places],
        "waiting": [_sampled(slots, at, "waiting") for at in places],
        "kv": [_kv(slots, at) for at in places],
        "padding": [padding_waste([s.sample for s in w if s.sample]) for w in windows],
    }


def _tok_s(window: list[Slot], place: int) -> float:
    return round(sum(slot.figures.tokens for slot in window) / min(SMOOTH, place + 1), 2)


def _ended_s(window: list[Slot], place: int, end: str) -> float:
    return round(sum(slot.figures.counts[end] for slot in window) / min(SMOOTH, place + 1), 2)


def _quantile(window: list[Slot], name: str, share: float) -> float | None:
    whole = Histogram()
    for slot in window:
        whole.merge(slot.figures.latencies[name])
    value = whole.quantile(share)
    return None if value is None else round(value * 1e3, 2)


def _flying(slots: dict[int, Slot], places: range) -> list[float | None]:
    """Each process's last word stands for the seconds in which it told nothing."""
    known: dict[str, tuple[int, int]] = {}
    found: list[float | None] = []
    for place in places:
        if place in slots:
            known.update({who: (place, n) for who, n in slots[place].in_flight.items()})
        alive = [n for told, n in known.values() if place - told <= SMOOTH]
        found.append(sum(alive) if alive else None)
    return found


def _sampled(slots: dict[int, Slot], place: int, name: str) -> float | None:
    slot = slots.get(place)
    return None if slot is None or slot.sample is None else slot.sample[name]


def _kv(slots: dict[int, Slot], place: int) -> float | None:
    total = _sampled(slots, place, "pages_total")
    used = _sampled(slots, place, "pages_used")
    return used / total if total and used is not None else None

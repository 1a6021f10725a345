"""What a level is known by, in words: requests in flight in a closed loop, requests per second in an open one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Summary = Mapping[str, Any]
Level = Mapping[str, Any]

FROM_SCHEDULE = {"ttft_ms": "ttft_sched_ms", "e2e_ms": "e2e_sched_ms"}


def is_open(summary: Summary) -> bool:
    """Whether the run is an open loop."""
    return any(level["target"]["kind"] == "rate" for level in summary["levels"])


def by_rate(level: Level) -> bool:
    """Whether the level is one of an open loop."""
    return bool(level["target"]["kind"] == "rate")


def size(level: Level) -> str:
    """`8`, or `4/s` in an open loop."""
    return f"{level['target']['value']:g}{'/s' if by_rate(level) else ''}"


def size_of(summary: Summary, value: float) -> str:
    """`size` of a level of the run that is known by its value alone."""
    return size({"target": {"kind": "rate" if is_open(summary) else "", "value": value}})


def size_words(level: Level) -> str:
    """`8 in flight`, or `4 requests a second`."""
    value = level["target"]["value"]
    if by_rate(level):
        return f"{value:g} request{'' if value == 1 else 's'} a second"
    return f"{value:g} in flight"


def at_words(summary: Summary, value: float) -> str:
    """`size_words` of a level of the run that is known by its value alone."""
    return size_words({"target": {"kind": "rate" if is_open(summary) else "", "value": value}})


def heading(summary: Summary) -> str:
    """Of the column that names the level."""
    return "Rate" if is_open(summary) else "In flight"


def unit(summary: Summary) -> str:
    """What levels are counted in."""
    return "requests a second" if is_open(summary) else "requests in flight"


def level_word(summary: Summary) -> str:
    """What a level is, as the title of a chart says it."""
    return "rate" if is_open(summary) else "requests in flight"


def measured(level: Level, metric: str) -> str:
    """The latency of that name that counts: from the schedule in an open loop, from the send in a closed one."""
    return FROM_SCHEDULE.get(metric, metric) if by_rate(level) else metric

"""What an open-loop run says in plain words: the rate that was held, what callers waited, what to doubt. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paceline.loadgen.units import size, size_words
from paceline.loadgen.wording import listing, milliseconds, number, percent, upper

Summary = Mapping[str, Any]
Level = Mapping[str, Any]


def headline(summary: Summary, hero: str, levels: Sequence[Level], word: str) -> str:
    """The search's answer, or the highest rate that was kept up with. `levels` are the hero's, by rising rate."""
    search = (_told(summary, hero) or {}).get("search")
    if search is not None:
        return f"{word.capitalize()} {_search_answer(search)}"
    held = [level for level in levels if level["stable"]["verdict"] == "steady"]
    if not held:
        return f"{word.capitalize()} kept up with none of the rates offered: see below."
    best = held[-1]
    return f"{word.capitalize()} kept up with {size_words(best)}: {_waits(best)}."


def _search_answer(search: Mapping[str, Any]) -> str:
    if search["rate"] is None:
        if not search["tried"]:
            return f"was not measured against {search['slo']}: the search did not begin."
        low = min(one["rate"] for one in search["tried"])
        return f"did not meet {search['slo']} at any rate tried, down to {low:g} requests a second."
    text = f"met {search['slo']} up to {search['rate']:g} requests a second"
    misses = [one["rate"] for one in search["tried"] if not one["met"]]
    over = [rate for rate in misses if rate > search["rate"]]
    return (
        f"{text}, and missed it at {min(over):g}." if over else f"{text}, the highest rate tried."
    )


def _waits(level: Level) -> str:
    first = level["latency"]["ttft_sched_ms"]
    if first["median"] is None:
        return "no first token was seen"
    name, value = upper(first)
    text = (
        f"the first token came {milliseconds(first['median'])} after its request was due (median)"
    )
    if value is None:
        return text
    return (
        f"{text}, at most {milliseconds(value)}"
        if name == "max"
        else f"{text}, {name} {milliseconds(value)}"
    )


def cards(summary: Summary, hero: str, levels: Sequence[Level]) -> list[tuple[str, str]]:
    """(figure, what it is): the search's answer, the rate that was held with its wait, the saturation."""
    told = _told(summary, hero) or {}
    search, saturation = told.get("search"), told.get("saturation_req_s")
    held = [level for level in levels if level["stable"]["verdict"] == "steady"]
    found = []
    if search and search["rate"] is not None:
        found.append((f"{search['rate']:g}/s", f"the highest rate that met {search['slo']}"))
    elif held:
        found.append((size(held[-1]), "the highest rate offered that was kept up with"))
        wait = milliseconds(held[-1]["latency"]["ttft_sched_ms"]["median"])
        found.append((wait, f"from due to first token at {size(held[-1])}, median"))
    if saturation:
        found.append((f"{number(saturation, 1)}/s", "requests ended with the batch kept full"))
    return found


def explanation(summary: Summary, hero: str, levels: Sequence[Level]) -> str:
    """What was offered and how it compares to what the server can do in a closed loop."""
    told = _told(summary, hero) or {}
    arrival = told.get("arrival", "poisson")
    text = f"Requests came by their own schedule ({arrival} arrivals), whether or not the server kept up"
    if saturation := told.get("saturation_req_s"):
        text += f"; with its batch kept full it ended {number(saturation, 1)} requests a second"
    late = [level for level in levels if level["stable"]["verdict"] == "unstable"]
    if late:
        text += f". At {listing([size(level) for level in late])} more came than ended"
    return f"{text}. Waits count from the moment a request was due."


def flags(summary: Summary) -> list[tuple[str, str]]:
    """(kind, text) of what is to be doubted in an open loop."""
    levels = summary["levels"]
    dropped = sum(level["client"]["dropped"] for level in levels)
    arrivals = sum(level["client"]["arrivals"] for level in levels)
    late = [level for level in levels if level["client"]["dispatch_degraded"]]
    found = []
    if dropped:
        text = f"{dropped:,} of {arrivals:,} arrivals were dropped: too many were outstanding, or their level had ended"
        found.append(("warn", text))
    if late:
        text = "The load generator sent late (p99 over 10 ms and 1 % of the median TTFT): "
        found.append(("warn", text + listing([size(level) for level in late])))
    for told in (summary["run"].get("open") or {}).values():
        search = told.get("search")
        found += _search_flags(search) if search else []
    return found


def _search_flags(search: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    if search["rate"] is not None and not search["bounded"]:
        found.append(("note", "The search ended before a rate missed the SLO"))
    met = [one for one in search["tried"] if one["met"]]
    fewest = min((one["judged"] for one in met), default=0)
    if met and fewest * (1 - met[0]["wanted"]) < 1 - 1e-9:
        needed = math.ceil(1 / (1 - met[0]["wanted"]) - 1e-9)
        text = f"The search's answer rests on few requests: {fewest} at one level, where"
        found.append(("warn", f"{text} {percent(met[0]['wanted'])} takes {needed} to tell"))
    return found


def answers(summary: Summary, hero: str, levels: Sequence[Level]) -> list[tuple[str, str]]:
    """(question, answer) for the part of the report that speaks of practice."""
    if not levels:
        return []
    return [
        ("How much load does it keep up with?", _capacity(summary, hero, levels)),
        ("What do callers feel as load rises?", _feel(levels)),
        ("Were the requests sent when they were due?", _honest(levels)),
    ]


def _capacity(summary: Summary, hero: str, levels: Sequence[Level]) -> str:
    held = [level for level in levels if level["stable"]["verdict"] == "steady"]
    lost = [level for level in levels if level["stable"]["verdict"] == "unstable"]
    text = f"It kept up with {size_words(held[-1])}" if held else "It kept up with no rate offered"
    if lost:
        text += f"; at {size_words(lost[0])} requests piled up ({lost[0]['stable']['reason']})"
    saturation = (_told(summary, hero) or {}).get("saturation_req_s")
    if saturation and held:
        share = percent(held[-1]["target"]["value"] / saturation)
        text += f". That is {share} of what it ended with its batch kept full"
    return f"{text}. Beyond that point no queue is long enough, and every wait grows with the length of the test."


def _feel(levels: Sequence[Level]) -> str:
    parts = [
        f"{milliseconds(level['latency']['ttft_sched_ms']['median'])} at {size(level)}"
        for level in (levels[0], levels[len(levels) // 2], levels[-1])
        if level["latency"]["ttft_sched_ms"]["median"] is not None
    ]
    each = [
        f"{milliseconds(level['latency']['tpot_ms']['median'])} at {size(level)}"
        for level in (levels[0], levels[-1])
        if level["latency"]["tpot_ms"]["median"] is not None
    ]
    if not parts or not each:
        return "Too few requests ended to say."
    first = listing(list(dict.fromkeys(parts)))
    return f"Half of the first tokens came within {first}; a token took {listing(list(dict.fromkeys(each)))}."


def _honest(levels: Sequence[Level]) -> str:
    late = sum(level["client"]["late"] for level in levels)
    sent = sum(level["client"]["arrivals"] - level["client"]["dropped"] for level in levels)
    dropped = sum(level["client"]["dropped"] for level in levels)
    worst = max((level["client"]["dispatch_ms"]["max"] or 0.0 for level in levels), default=0.0)
    text = f"{late:,} of {sent:,} requests were sent more than 10 ms late, the latest by {milliseconds(worst)};"
    return f"{text} {dropped:,} were not sent. The waits above include this lateness."


def _told(summary: Summary, mode: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = (summary["run"].get("open") or {}).get(mode)
    return found

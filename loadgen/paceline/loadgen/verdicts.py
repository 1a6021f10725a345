"""What a run says in plain words: ratios at one concurrency, the peak, and what to doubt. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.loadgen import open_words
from paceline.loadgen.client_health import limit_of
from paceline.loadgen.flags import flags
from paceline.loadgen.systems import system
from paceline.loadgen.units import by_rate, is_open
from paceline.loadgen.wording import listing, percent, rate, ratio

Summary = Mapping[str, Any]
NEAR_PEAK = 0.9
SHORTEST_WINDOW_S = 2.0  # shorter ones measure which requests happened to end, not the server
WORDS = {
    "sequential": "one request at a time",
    "static": "static batching",
    "dynamic": "dynamic batching",
    "continuous": "continuous batching",
}


def levels_of(summary: Summary, mode: str) -> list[dict[str, Any]]:
    """The levels of one mode that have a throughput, by rising concurrency."""
    chosen = [one for one in summary["levels"] if one["mode"] == mode and one["throughput"]]
    return sorted(chosen, key=lambda one: one["target"]["value"])


def modes_of(summary: Summary) -> list[str]:
    """The modes that were measured, in the order of the ladder."""
    present = dict.fromkeys(one["mode"] for one in summary["levels"] if one["throughput"])
    ladder = [mode for mode in WORDS if mode in present]
    return ladder + [mode for mode in present if mode not in WORDS]


def level_at(summary: Summary, mode: str, concurrency: float | None) -> dict[str, Any] | None:
    """One mode's level at one concurrency."""
    for one in levels_of(summary, mode):
        if one["target"]["value"] == concurrency:
            return one
    return None


def tokens_per_second(level: Mapping[str, Any] | None) -> float | None:
    """Output tokens a second of a level."""
    if level is None or level["throughput"] is None:
        return None
    value: float = level["throughput"]["output_tok_s"]
    return value


def verdicts(summary: Summary) -> dict[str, Any]:
    """Reference concurrency, ratios, peak, knee, limit, flags, and the two sentences at the top of the report."""
    modes = modes_of(summary)
    peak = _peak(summary)
    hero = "continuous" if "continuous" in modes else (peak or {}).get("mode")
    reference = _reference(summary, hero, modes)
    found: dict[str, Any] = {
        "hero": hero,
        "reference_concurrency": reference,
        "output_tok_s": {
            mode: tokens_per_second(level_at(summary, mode, reference)) for mode in modes
        },
        "peak": peak,
        "knee": _knee(summary, hero),
        "limit": _limit(summary, hero, reference),
        "best_goodput": _best_goodput(summary),
    }
    found["ratios"] = _ratios(found)
    found["baseline_ratios"] = _baseline_ratios(summary, hero)
    if is_open(summary) and hero is not None:
        levels = levels_of(summary, hero)
        found["headline"] = open_words.headline(summary, hero, levels, _word(hero))
        found["explanation"] = open_words.explanation(summary, hero, levels)
    else:
        found["headline"] = _headline(summary, found)
        found["explanation"] = _explanation(summary, found)
    found["flags"] = flags(summary, found)
    return found


def _reference(summary: Summary, hero: str | None, modes: list[str]) -> float | None:
    """The highest level of the hero's at which most of the other modes were measured too.

    In an open loop of those that were kept up with, if there is one: beyond it every wait grows with the test.
    """
    sizes = {
        mode: {one["target"]["value"] for one in levels_of(summary, mode) if tokens_per_second(one)}
        for mode in modes
    }
    own = sizes.get(hero or "", set())
    kept = {one["target"]["value"] for one in levels_of(summary, hero or "") if _kept_up(one)}
    own = own & kept or own
    return max(
        own, key=lambda size: (sum(size in other for other in sizes.values()), size), default=None
    )


def _kept_up(level: Mapping[str, Any]) -> bool:
    return not by_rate(level) or level["stable"]["verdict"] == "steady"


def _peak(summary: Summary) -> dict[str, Any] | None:
    best = max(
        (one for one in summary["levels"] if one["throughput"]),
        key=lambda one: one["throughput"]["output_tok_s"],
        default=None,
    )
    if best is None:
        return None
    return {
        "mode": best["mode"],
        "concurrency": best["target"]["value"],
        "output_tok_s": best["throughput"]["output_tok_s"],
    }


def _knee(summary: Summary, hero: str | None) -> dict[str, Any] | None:
    """The smallest concurrency within 10 % of the hero's peak: more only adds waiting."""
    levels = levels_of(summary, hero) if hero else []
    if not levels:
        return None
    top = max(tokens_per_second(one) or 0.0 for one in levels)
    knee = next(one for one in levels if (tokens_per_second(one) or 0.0) >= NEAR_PEAK * top)
    return {"concurrency": knee["target"]["value"], "output_tok_s": tokens_per_second(knee)}


def _best_goodput(summary: Summary) -> list[dict[str, Any]]:
    """Of each SLO the level with the most good requests a second; an SLO that nothing met has none."""
    best: dict[str, dict[str, Any]] = {}
    for level in summary["levels"]:
        for one in level["goodput"]:
            if (one["req_s"] or 0.0) > best.get(one["slo"], {"req_s": 0.0})["req_s"]:
                place = {"mode": level["mode"], **level["target"]}
                best[one["slo"]] = {
                    name: one[name] for name in ("slo", "req_s", "attainment")
                } | place
    return list(best.values())


def _limit(summary: Summary, hero: str | None, reference: float | None) -> dict[str, Any]:
    """Who was the limit at the reference level: the server, the load generator, or not known."""
    level = level_at(summary, hero, reference) if hero else None
    return dict(level["limit"]) if level else limit_of({}, {})


def _ratios(found: Mapping[str, Any]) -> dict[str, float]:
    ours = found["output_tok_s"].get(found["hero"])
    others = {mode: value for mode, value in found["output_tok_s"].items() if mode != found["hero"]}
    return {mode: ours / value for mode, value in others.items() if ours and value}


def _baseline_ratios(summary: Summary, hero: str | None) -> dict[str, Any]:
    """The hero's best throughput over each baseline's best."""
    levels = levels_of(summary, hero) if hero else []
    best = max((tokens_per_second(one) or 0.0 for one in levels), default=0.0)
    made = {}
    for name in dict.fromkeys(point["system"] for point in summary["baselines"]):
        points = [p for p in summary["baselines"] if p["system"] == name and p["output_tok_s"]]
        top = max(points, key=lambda point: point["output_tok_s"], default=None)
        if top and best:
            made[name] = {"ratio": best / top["output_tok_s"], "batch_size": top["batch_size"]}
    return made


def _headline(summary: Summary, found: Mapping[str, Any]) -> str:
    hero, reference = found["hero"], found["reference_concurrency"]
    if hero is None or reference is None:
        return "Nothing was measured to the end: see what is there below."
    made = found["output_tok_s"].get(hero)
    name = _word(hero)
    start = f"{name[:1].upper()}{name[1:]} made {rate(made)} tokens per second"
    start += f" with {reference} request{'s' if reference != 1 else ''} in flight"
    parts = [f"{ratio(found['ratios'][mode])} {_word(mode)}" for mode in found["ratios"]]
    if parts and _too_short(summary, reference, [hero, *found["ratios"]]):
        return f"{start}. The steady windows are too short to compare systems by: give the run more time."
    return f"{start}: {listing(parts)}." if parts else f"{start}."


def _too_short(summary: Summary, reference: float, modes: Sequence[str]) -> bool:
    """Whether a level's window lets less than a few answers end, on a machine slow for the time it was given."""
    levels = [level_at(summary, mode, reference) for mode in modes]
    windows = [level["throughput"].get("window_s") or 0.0 for level in levels if level]
    return min(windows, default=0.0) < SHORTEST_WINDOW_S


def _word(mode: str) -> str:
    return WORDS.get(mode) or system(mode).label


def _explanation(summary: Summary, found: Mapping[str, Any]) -> str:
    """Why, in the run's own figures: how full the batch was kept, and what padding took."""
    reference, hero = found["reference_concurrency"], found["hero"]
    ours = level_at(summary, hero, reference) if hero else None
    static = level_at(summary, "static", reference)
    if hero != "continuous" or ours is None:
        return "The same model, the same prompts and the same machine for every system compared."
    rows = ours["server"].get("batch_mean")
    text = "A row that falls free is refilled at the next step"
    text += f", so each step carried {rows:.{int(rows < 10)}f} requests on average" if rows else ""
    waste = [
        (level["server"].get("padding_waste"), level["server"].get("batch_mean"))
        for level in (ours, static)
        if level
    ]
    if len(waste) == 2 and None not in waste[0] and None not in waste[1]:
        text += f" and {percent(waste[0][0])} of the computed tokens were padding; static batching"
        text += (
            f" carried {waste[1][1]:.{int(waste[1][1] < 10)}f} and padded {percent(waste[1][0])}"
        )
    if equal_lengths(summary):
        text += ". All answers are equally long here, the one case in which static batching loses little"
    return f"{text}. Same model, same prompts, same machine."


def equal_lengths(summary: Summary) -> bool:
    """Whether every request asks for the same number of tokens."""
    spread = summary["work"].get("max_tokens")
    return bool(spread) and spread["min"] == spread["max"]

"""The five practical questions of batching, each answered with the run's own figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paceline.loadgen.open_words import answers as answers_in_words
from paceline.loadgen.systems import system
from paceline.loadgen.tables import level_tail, median
from paceline.loadgen.units import is_open
from paceline.loadgen.verdicts import WORDS, equal_lengths, level_at, levels_of, tokens_per_second
from paceline.loadgen.wording import listing, number, percent, rate, ratio

Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Concern:
    """A question people have in practice, and what this run answers."""

    title: str
    answer: str


def concerns(summary: Summary) -> tuple[Concern, ...]:
    """The five concerns in the order people meet them. An answer without data says so."""
    hero = summary["verdicts"]["hero"]
    if is_open(summary) and hero:
        told = answers_in_words(summary, hero, levels_of(summary, hero))
        return tuple(Concern(title, answer) for title, answer in told)
    missing = "This run has no figures for it."
    answers = (
        ("Which batch size is best?", _best_size(summary)),
        ("What do answers of different length cost?", _lengths(summary)),
        ("What does batching do to latency?", _latency(summary)),
        ("How much memory does it take?", _memory(summary)),
        ("Does it adapt when the load changes?", _adapting(summary)),
    )
    return tuple(Concern(title, answer or missing) for title, answer in answers)


def _best_size(summary: Summary) -> str:
    hero, knee = summary["verdicts"]["hero"], summary["verdicts"]["knee"]
    levels = levels_of(summary, hero) if hero else []
    if not levels or knee is None:
        return ""
    first, last = levels[0], levels[-1]
    best = max(levels, key=lambda one: tokens_per_second(one) or 0.0)
    gain = (tokens_per_second(best) or 0.0) / (tokens_per_second(first) or 1.0)
    text = f"{system(hero).label} gains up to {best['target']['value']} in flight, where it makes"
    text += f" {rate(tokens_per_second(best))} tokens/s, {ratio(gain)} what {_size(first)} makes."
    if knee["concurrency"] < best["target"]["value"]:
        text += (
            f" {_size(knee_level(summary)).capitalize()} already gives {rate(knee['output_tok_s'])}"
        )
        text += ", within 10 % of that peak; past this point more requests mostly wait."
    if best is last and len(levels) > 1:
        text += " The curve was still rising at the end of this sweep: a longer list may find more."
    return text + _best_baseline(summary)


def knee_level(summary: Summary) -> dict[str, Any]:
    """The hero's level at its knee."""
    verdict = summary["verdicts"]
    found = level_at(summary, verdict["hero"], verdict["knee"]["concurrency"])
    assert found is not None, "a knee is one of the measured levels"
    return found


def _size(level: Mapping[str, Any]) -> str:
    value = level["target"]["value"]
    return "one alone" if value == 1 else f"{value} in flight"


def _best_baseline(summary: Summary) -> str:
    points = [p for p in summary["baselines"] if p["batch_size"] > 1 and p["output_tok_s"]]
    if not points:
        return ""
    best = max(points, key=lambda point: point["output_tok_s"])
    return (
        f" Padded batches of transformers do best at {best['batch_size']}:"
        f" {rate(best['output_tok_s'])} tokens/s."
    )


def _lengths(summary: Summary) -> str:
    spread = summary["work"].get("max_tokens") or {}
    reference = summary["verdicts"]["reference_concurrency"]
    text = ""
    if equal_lengths(summary):
        text = (
            f"All answers here are {spread['max']} tokens long, the kindest case for a batch that"
        )
        text += " waits for its longest row; other workloads are not so kind. "
    elif spread:
        text = (
            f"Answers here are {spread['min']} to {spread['max']} tokens long, half of them under"
        )
        text += f" {spread['median']:.0f}. A batch that waits for its longest row pays for the others too. "
    wastes = [
        (mode, level["server"]["padding_waste"])
        for mode in WORDS
        if (level := level_at(summary, mode, reference))
        and level["server"].get("padding_waste") is not None
    ]
    if not wastes:
        return text
    parts = [f"{percent(waste)} with {WORDS[mode]}" for mode, waste in wastes]
    return (
        f"{text}At {reference} in flight the padding was {listing(parts)} of all computed tokens."
    )


def _latency(summary: Summary) -> str:
    hero, reference = summary["verdicts"]["hero"], summary["verdicts"]["reference_concurrency"]
    level = level_at(summary, hero, reference) if hero else None
    if level is None:
        return ""
    first = levels_of(summary, hero)[0]
    text = f"Sharing a step makes each token a little slower: with {WORDS.get(hero, hero)} a token took"
    text += f" {_median(first, 'tpot_ms')} for {_size(first)} and {_median(level, 'tpot_ms')} with"
    text += f" {reference} in flight (TPOT, medians). But nobody queues behind a whole batch: "
    shown = []
    for mode in WORDS:
        other = level_at(summary, mode, reference)
        if other and other["latency"]["ttft_ms"]["median"] is not None:
            shown.append(f"{_median(other, 'ttft_ms')} with {WORDS[mode]}")
    text += f"the first token came after {listing(shown)}." if shown else ""
    return f"{text} The slow end of {WORDS.get(hero, hero)}: {level_tail(level, 'ttft_ms')}."


def _median(level: Mapping[str, Any], metric: str) -> str:
    return median(level, metric)


def _ttft(level: Mapping[str, Any]) -> float:
    return float(level["latency"]["ttft_ms"]["median"] or 0.0)


def _memory(summary: Summary) -> str:
    hero = summary["verdicts"]["hero"]
    levels = levels_of(summary, hero) if hero else []
    known = [
        one
        for one in levels
        if one["server"].get("kv_pages_peak") and one["server"].get("kv_pages_total")
    ]
    if not known:
        return ""
    top = max(known, key=lambda one: one["server"]["kv_pages_peak"])
    used, total = top["server"]["kv_pages_peak"], top["server"]["kv_pages_total"]
    own = next(one for one in summary["systems"] if one["mode"] == hero)
    page = own["server"].get("page_size")
    text = f"Keys and values live in pages{f' of {page} tokens' if page else ''}, taken as answers grow and"
    text += f" freed with the last token. At most {number(used)} of {number(total)} pages"
    text += f" ({percent(used / total)}) were in use, with {_size(top)};"
    preempted = sum(one["server"].get("preemptions") or 0 for one in levels)
    text += f" {number(preempted)} requests lost their pages and were computed again."
    if own["memory_peak_mib"]:
        text += f" The server process peaked at {number(own['memory_peak_mib'])} MiB."
    return text


def _adapting(summary: Summary) -> str:
    hero = summary["verdicts"]["hero"]
    levels = levels_of(summary, hero) if hero else []
    rows = [
        (one["target"]["value"], one["server"]["batch_mean"])
        for one in levels
        if one["server"].get("batch_mean") is not None
    ]
    if not rows:
        return ""
    text = f"The batch of {WORDS.get(hero, hero)} follows the load by itself: "
    text += (
        listing([f"{value:.1f} rows per step at {size} in flight" for size, value in rows]) + "."
    )
    alone, static = level_at(summary, hero, 1), level_at(summary, "static", 1)
    if alone and static and hero != "static" and _ttft(static) > 1.1 * _ttft(alone):
        text += f" A request alone had its first token after {_median(alone, 'ttft_ms')};"
        text += (
            f" static batching, which first waits for company, took {_median(static, 'ttft_ms')}."
        )
    return text

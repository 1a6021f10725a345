from __future__ import annotations

import copy
from typing import Any

import pytest

from loadgen.sample_run import open_summary, sample_data, sample_summary
from paceline.loadgen.charts import headline
from paceline.loadgen.concerns import concerns
from paceline.loadgen.summary import build_summary
from paceline.loadgen.tables import cached_share, levels_table, short_table
from paceline.loadgen.verdicts import level_at, tokens_per_second, verdicts
from paceline.loadgen.wording import percent, rate, ratio


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return sample_summary()


def test_ratios_are_taken_at_one_concurrency(summary: dict[str, Any]) -> None:
    """Continuous over each other mode, at the highest level that all were measured at."""
    verdict = summary["verdicts"]
    assert verdict["reference_concurrency"] == 32
    ours = tokens_per_second(level_at(summary, "continuous", 32))
    assert ours is not None
    for mode in ("sequential", "static", "dynamic"):
        other = tokens_per_second(level_at(summary, mode, 32))
        assert other is not None
        assert verdict["ratios"][mode] == pytest.approx(ours / other)
        assert ratio(ours / other) in verdict["headline"]
    assert rate(ours) in verdict["headline"]


def test_short_windows_are_not_compared(summary: dict[str, Any]) -> None:
    """Where hardly an answer ended in a level's window, the headline names no winner."""
    hurried = copy.deepcopy(summary)
    level = level_at(hurried, "static", 32)
    assert level is not None
    level["throughput"]["window_s"] = 0.5
    sentence = verdicts(hurried)["headline"]
    assert "too short" in sentence and "static" not in sentence
    assert "too short" not in verdicts(summary)["headline"]


def test_a_missing_level_moves_the_comparison_to_one_that_all_have() -> None:
    """A mode that was stopped early is compared where it was measured."""
    data = sample_data(level_s=3.0)
    static = next(mode for mode in data.modes if mode.mode == "static")
    static.records = [record for record in static.records if record.level <= 8]
    summary = build_summary(data)
    assert summary["verdicts"]["reference_concurrency"] == 8
    assert "with 8 requests in flight" in summary["verdicts"]["headline"]


def test_baseline_ratios_compare_best_with_best(summary: dict[str, Any]) -> None:
    """Our peak over the baseline's best batch size."""
    best = max(
        (p for p in summary["baselines"] if p["system"] == "transformers-batched"),
        key=lambda point: point["output_tok_s"],
    )
    found = summary["verdicts"]["baseline_ratios"]["transformers-batched"]
    peak = summary["verdicts"]["peak"]["output_tok_s"]
    assert found == {
        "ratio": pytest.approx(peak / best["output_tok_s"]),
        "batch_size": best["batch_size"],
    }


def flags(summary: dict[str, Any], kind: str) -> str:
    """The texts of one kind of flag, in one string."""
    return "; ".join(flag["text"] for flag in summary["verdicts"]["flags"] if flag["kind"] == kind)


def test_a_clean_run_has_no_warning(summary: dict[str, Any]) -> None:
    """Steady levels, a full server, every token there."""
    assert flags(summary, "warn") == ""
    assert "The server was the limit" in flags(summary, "good")


def test_doubts_are_flagged() -> None:
    """Failures, lost tokens, a full client, a level below its target and an early end all show."""
    data = sample_data(modes=["continuous"], levels=[4], level_s=3.0, partial=True, baselines=False)
    run = data.modes[0]
    run.records = [
        _replaced(record, status="INTERNAL") if at == 10 else record
        for at, record in enumerate(run.records)
    ]
    run.records = [_replaced(record, level=16) for record in run.records]
    for sample in run.samples:
        sample["client_cpu_pct"] = 99.0
    run.error = "the server ended by itself"
    text = flags(build_summary(data), "warn")
    for doubt in (
        "Partial: stopped by Ctrl-C",
        "1 requests failed",
        "load generator was the limit",
    ):
        assert doubt in text
    assert "Not steady: Continuous at 16" in text
    assert "the server ended by itself" in text


def test_cut_requests_mark_latencies_as_lower_bounds() -> None:
    """The tables say "at least", the chart draws the point hollow, a flag says why, and no flag says all is well."""
    data = sample_data(modes=["continuous"], levels=[4], level_s=6.0, baselines=False)
    clean = build_summary(data)
    assert clean["levels"][0]["lower_bounds"] == []
    assert "≥" not in short_table(clean).markdown()
    run = data.modes[0]
    run.records = [
        _replaced(record, status="CANCELLED", cut=True, stamps_us=[], tokens=[], server=None)
        if at % 5 == 4
        else record
        for at, record in enumerate(run.records)
    ]
    summary = build_summary(data)
    assert "lower bounds (≥), as over 10 %" in flags(summary, "note")
    assert "Continuous at 4" in flags(summary, "note")
    assert "Every level reached" not in flags(summary, "good")
    assert short_table(summary).markdown().count("≥") == 2
    assert "| rates only |" in levels_table(summary).markdown()
    chart = headline(summary)
    assert chart is not None
    hollow = {view["name"]: view["series"][0]["points"][0].get("hollow") for view in chart["views"]}
    assert list(hollow.values()) == [True, True, None]


def test_a_prefix_cache_shows() -> None:
    """Tokens that were not computed make a run look faster than it is: said, with the share, and in the table."""
    data = sample_data(modes=["continuous"], levels=[4], level_s=3.0, baselines=False)
    assert "prefix cache" not in flags(build_summary(data), "note")
    run = data.modes[0]
    run.records = [_replaced(one, cached_tokens=one.prompt_tokens // 2) for one in run.records]
    summary = build_summary(data)
    assert "% of the prompt tokens came from the prefix cache" in flags(summary, "note")
    share = cached_share(summary["levels"][0])
    assert share == pytest.approx(0.5, abs=0.02)
    assert levels_table(summary).rows[0].cells[-1] == percent(share)


def test_few_requests_are_counted_without_the_cut_ones() -> None:
    """What counts is how many values are behind a median."""
    data = sample_data(modes=["continuous"], levels=[4], level_s=6.0, baselines=False)
    run = data.modes[0]
    ended = 0
    for at, record in enumerate(run.records):
        ended += record.measured
        if ended > 9:
            run.records[at] = _replaced(record, status="CANCELLED", cut=True, server=None)
    summary = build_summary(data)
    assert summary["levels"][0]["counts"]["in_latencies"] > 9
    assert "Latencies of fewer than 10 requests" in flags(summary, "note")


def _replaced(record: Any, **values: Any) -> Any:
    return type(record).from_json(record.to_json() | values)


def test_five_concerns_are_answered_with_figures(summary: dict[str, Any]) -> None:
    """Each answer holds numbers of this run; without data it says that there are none."""
    answers = concerns(summary)
    assert len(answers) == 5
    assert all(any(letter.isdigit() for letter in one.answer) for one in answers)
    peak = summary["verdicts"]["peak"]
    assert rate(peak["output_tok_s"]) in answers[0].answer
    empty = concerns(summary | {"levels": [], "baselines": [], "work": {}, "verdicts": EMPTY})
    assert [one.answer for one in empty] == ["This run has no figures for it."] * 5


EMPTY = {"hero": None, "knee": None, "reference_concurrency": None}


def test_markdown_has_a_line_per_level(summary: dict[str, Any]) -> None:
    """Heading, rule, 24 levels; every line has the same number of cells."""
    lines = short_table(summary).markdown().splitlines()
    assert len(lines) == 2 + 24
    assert {line.count("|") for line in lines} == {10}
    value = rate(tokens_per_second(level_at(summary, "static", 16)))
    assert f"| Static | 16 | {value} |" in "\n".join(lines)


def test_an_open_loop_is_looked_at_where_it_was_kept_up_with() -> None:
    """Distributions and scatters come from the highest rate that was held, not from one that only piled up requests."""
    summary = open_summary([2, 8, 32])
    assert summary["verdicts"]["reference_concurrency"] == 32
    summary["levels"][2]["stable"]["verdict"] = "unstable"
    assert verdicts(summary)["reference_concurrency"] == 8
    summary["levels"][1]["stable"]["verdict"] = summary["levels"][0]["stable"]["verdict"] = (
        "unstable"
    )
    assert verdicts(summary)["reference_concurrency"] == 32

"""Ends and kinds of requests in a level's figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadgen.sample_run import sample_data
from loadgen.test_statistics import call
from paceline.loadgen.kind_table import kinds_table
from paceline.loadgen.outcomes import outcome, outcome_counts
from paceline.loadgen.report_markdown import markdown_report
from paceline.loadgen.report_page import report_page
from paceline.loadgen.statistics import summarise_level
from paceline.loadgen.summary import build_summary
from paceline.loadgen.tables import levels_table
from paceline.loadgen.timing import Record

NOTHING: dict[str, Any] = {"stamps_us": [], "tokens": [], "server": None, "output_tokens": 0}
LEFT: dict[str, Any] = {"status": "CANCELLED", "cancelled_by_plan": True, "server": None}
MISSED: dict[str, Any] = {"status": "DEADLINE_EXCEEDED", "deadline_s": 0.5, **NOTHING}


def mixed_level() -> list[Record]:
    """Forty calls, of which some were shed, failed, cut, late, or left by their reader."""
    records = [call(i, kind="a" if i % 4 else "b") for i in range(40)]
    changes: dict[int, dict[str, Any]] = {
        10: {"status": "RESOURCE_EXHAUSTED", **NOTHING},
        11: {"status": "UNAVAILABLE", **NOTHING},
        12: MISSED,
        13: LEFT,
        14: {"status": "DEADLINE_EXCEEDED", **NOTHING},
        38: {"status": "CANCELLED", "cut": True, **NOTHING},
        39: MISSED | {"cut": True},
    }
    for number, change in changes.items():
        records[number] = call(number, kind=records[number].kind, **change)
    return records


def test_every_request_ends_in_one_class() -> None:
    """Classes add up, a cut wins over a deadline, and a deadline of the run alone is a failure."""
    records = mixed_level()
    counts = outcome_counts(records)
    classes = ("ok", "shed", "failed", "missed_deadline", "cancelled_by_plan", "cut")
    assert [counts[name] for name in classes] == [33, 1, 2, 1, 1, 2]
    assert sum(counts[name] for name in classes) == counts["sent"] == 40
    assert counts["failed_by_status"] == {"DEADLINE_EXCEEDED": 1, "UNAVAILABLE": 1}
    assert outcome(records[39]) == "cut"
    summary = summarise_level(records, 2)["counts"]
    assert counts.items() <= summary.items()


def test_a_reader_who_leaves_counts_where_it_saw_tokens() -> None:
    """Planned cancels are in TTFT and ITL, and not in TPOT and E2E, nor do they censor them."""
    records = [call(i, **(LEFT if i % 2 else {})) for i in range(60)]
    found = summarise_level(records, 2)
    latency = found["latency"]
    assert latency["ttft_ms"]["n"] > 1.8 * latency["e2e_ms"]["n"] > 0
    assert latency["tpot_ms"]["n"] == latency["e2e_ms"]["n"]
    assert found["lower_bounds"] == []


def test_missed_deadlines_make_lower_bounds() -> None:
    """Where over 10 % missed their deadline without a token, what is known of TTFT and E2E is a lower bound."""
    records = [call(i, **(MISSED if i % 4 == 0 else {})) for i in range(60)]
    bounds = ["ttft_ms", "e2e_ms", "norm_ms_per_tok"]
    assert summarise_level(records, 2)["lower_bounds"] == bounds
    of_two = [replace(record, kind="b" if i % 2 else "a") for i, record in enumerate(records)]
    of_a, of_b = (kind["lower_bounds"] for kind in summarise_level(of_two, 2)["kinds"])
    assert (of_a, of_b) == (bounds, [])


def test_figures_by_kind() -> None:
    """Each kind has its own counts and latencies; with one kind there is nothing to tell apart."""
    slow: dict[str, Any] = {"stamps_us": [400_000] + [60_000] * 9, "kind": "long"}
    records = [call(i, **(slow if i % 2 else {"kind": "short"})) for i in range(60)]
    long, short = summarise_level(records, 2)["kinds"]
    assert (long["kind"], short["kind"]) == ("long", "short")
    assert long["ttft_ms"]["median"] == pytest.approx(400.0)
    assert short["ttft_ms"]["median"] == pytest.approx(110.0)
    assert long["counts"]["sent"] == short["counts"]["sent"] == 30
    assert summarise_level([call(i) for i in range(60)], 2)["kinds"] == []


def test_probes_count_in_no_other_figure() -> None:
    """A level with probes beside it has the same figures as without, and theirs in a row of their own."""
    load = [call(i) for i in range(60)]
    probes = [call(i, id=f"p{i}", kind="probe", stamps_us=[9_000] * 10) for i in range(4, 60)]
    alone, beside = summarise_level(load, 2), summarise_level(load + probes, 2)
    kinds = beside.pop("kinds")
    assert alone.pop("kinds") == [] and alone == beside
    assert [kind["kind"] for kind in kinds] == ["", "probe"]
    assert kinds[1]["ttft_ms"]["median"] == pytest.approx(9.0)
    assert kinds[1]["counts"]["sent"] == len(probes)


def test_the_report_shows_kinds_and_ends() -> None:
    """Page and Markdown have a table by kind and columns for ends where there are some, and neither otherwise."""
    plain = sample_data(modes=["continuous"], levels=[4], baselines=False)
    summary = build_summary(plain)
    assert kinds_table(summary).rows == ()
    for text in (report_page(summary), markdown_report(summary)):
        assert "By kind of request" not in text
    assert "Missed" not in levels_table(summary).headings
    (run,) = plain.modes
    for place, record in enumerate(run.records):
        change = {"kind": ("short", "long", "probe")[place % 3]}
        run.records[place] = Record.from_json(
            record.to_json() | change | (MISSED if place == 31 and record.ok else {})
        )
    summary = build_summary(plain)
    assert [row.cells[2] for row in kinds_table(summary).rows] == ["long", "short", "probe"]
    for text in (report_page(summary), markdown_report(summary)):
        assert "By kind of request" in text
    assert "Missed" in levels_table(summary).headings
    assert "Cancelled" not in levels_table(summary).headings
    assert all(
        len(row.cells) == len(levels_table(summary).headings) for row in levels_table(summary).rows
    )

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import paceline.loadgen.summary as module
from loadgen.sample_run import LEVELS, MODES, sample_data, sample_summary
from loadgen.test_report_page import sample_run_without_records
from paceline.loadgen.summary import build_summary

SCHEMA = json.loads(Path(module.__file__).with_name("summary.schema.json").read_text("utf-8"))


def complaints(summary: dict[str, Any]) -> list[str]:
    """What the schema finds wrong with a summary as it is written to disk."""
    Draft202012Validator.check_schema(SCHEMA)
    written = json.loads(json.dumps(summary, allow_nan=False))
    found = Draft202012Validator(SCHEMA).iter_errors(written)
    return [f"{'/'.join(map(str, one.absolute_path))}: {one.message}" for one in found]


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"modes": ["continuous"], "levels": [1], "baselines": False, "level_s": 2.0},
        {"modes": ["sequential", "static"], "levels": [4, 32], "level_s": 2.0, "partial": True},
        {"workload": "notebook", "levels": [1, 2, 4, 8], "level_s": 3.0},
    ],
)
def test_every_kind_of_run_fits_the_schema(choices: dict[str, Any]) -> None:
    """Whole, partial, one mode alone, without baselines."""
    assert complaints(sample_summary(**choices)) == []


def test_a_run_in_which_nothing_was_measured_fits_the_schema() -> None:
    """No level, no timeline, no ratio, and still a summary."""
    assert complaints(build_summary(sample_run_without_records())) == []


def test_the_schema_refuses_what_is_not_a_summary() -> None:
    """A missing part, a wrong type and an unknown key are all found."""
    summary = sample_summary(modes=["continuous"], levels=[1], baselines=False, level_s=2.0)
    del summary["verdicts"]["headline"]
    summary["levels"][0]["target"]["value"] = "1"
    summary["surprise"] = 1
    assert len(complaints(summary)) == 3


def test_there_is_a_level_per_mode_and_concurrency() -> None:
    """In the order in which they ran, every moment counted from the start of the run."""
    summary = sample_summary()
    targets = [(level["mode"], level["target"]["value"]) for level in summary["levels"]]
    assert targets == [(mode, size) for mode in MODES for size in LEVELS]
    ends = [level["phases"]["drain"]["end_s"] for level in summary["levels"]]
    assert ends == sorted(ends)
    assert 0 < ends[0] < ends[-1] < 2000


def test_total_time_is_the_same_work_at_each_throughput() -> None:
    """Modes and baselines are asked for the same tokens."""
    data = sample_data(modes=["continuous"], levels=[4], level_s=4.0)
    summary = build_summary(data)
    level = summary["levels"][0]
    rate = level["throughput"]["output_tok_s"]
    assert level["total_time_s"] == pytest.approx(data.work["output_tokens"] / rate)
    for point, raw in zip(summary["baselines"], data.baselines, strict=True):
        assert point["total_time_s"] == pytest.approx(raw["wall_s"])


def test_the_same_run_gives_the_same_summary() -> None:
    """Intervals are drawn from the run's seed, nothing from a clock."""
    assert sample_summary(levels=[2], level_s=2.0) == sample_summary(levels=[2], level_s=2.0)

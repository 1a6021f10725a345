"""Levels that were measured several times."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from loadgen.conftest import scripted_server
from loadgen.sample_run import sample_data
from loadgen.test_compare import SLO
from loadgen.test_summary import SCHEMA
from paceline.loadgen.bench import rotated
from paceline.loadgen.bench_cli import main
from paceline.loadgen.compared_run import ComparedRun, load_run, parts_of
from paceline.loadgen.comparison import compare_runs
from paceline.loadgen.repeat_table import repeats_table
from paceline.loadgen.repeats import middle_one, spread
from paceline.loadgen.report_markdown import markdown_report
from paceline.loadgen.report_page import report_page
from paceline.loadgen.run_folder import write_levels
from paceline.loadgen.summary import RunData, build_summary

SPEEDS = (1.0, 1.2, 0.9)  # of the three repeats: the first is the one in the middle


def repeated() -> RunData:
    """One level, measured three times on a machine that drifts."""
    data = sample_data(["continuous"], [8], level_s=8.0, baselines=False)
    first = data.modes[0]
    data.modes = [
        replace(
            first,
            repeat=at,
            records=[
                replace(
                    one,
                    repeat=at,
                    t_send=one.t_send / speed + 1000 * at,
                    t_end=one.t_end / speed + 1000 * at,
                    stamps_us=[round(stamp / speed) for stamp in one.stamps_us],
                )
                for one in first.records
            ],
        )
        for at, speed in enumerate(SPEEDS)
    ]
    data.run["repeat"] = len(SPEEDS)
    return data


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return build_summary(repeated())


def test_the_spread_of_three_values() -> None:
    """Median, mean with Student's interval for two degrees of freedom, variation, and the widest pair."""
    found = spread([10.0, 12.0, 11.0])
    assert (found["median"], found["mean"]) == (11.0, 11.0)
    assert found["mean_ci95"] == pytest.approx([11 - 4.303 / 3**0.5, 11 + 4.303 / 3**0.5])
    assert found["cv"] == pytest.approx(1 / 11) and found["noise_floor"] == pytest.approx(0.2)
    alone = spread([None, 3.0])
    assert alone["median"] == 3.0 and alone["noise_floor"] is None and alone["values"] == [None, 3]


def test_a_level_shows_the_repeat_in_the_middle(summary: dict[str, Any]) -> None:
    """Each level stands once, with the figures of one repeat and the spread of all beside them."""
    (level,) = summary["levels"]
    repeats = level["repeats"]
    assert (repeats["n"], repeats["shown"]) == (3, 1)
    one = repeats["figures"]["output_tok_s"]
    assert one["median"] == level["throughput"]["output_tok_s"] == one["values"][0]
    assert one["values"] == pytest.approx([one["values"][0] * speed for speed in SPEEDS], rel=0.03)
    assert one["noise_floor"] == pytest.approx(1.2 / 0.9 - 1, rel=0.1)
    assert repeats["figures"]["ttft_ms"]["median"] == level["latency"]["ttft_ms"]["median"]
    errors = [one.message for one in Draft202012Validator(SCHEMA).iter_errors(_plain(summary))]
    assert errors == []


def _plain(summary: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(summary))
    return read


def test_reports_tell_the_spread(summary: dict[str, Any]) -> None:
    """Page, Markdown and flags; nothing of it where everything was measured once."""
    assert [row.cells[2] for row in repeats_table(summary).rows][:2] == ["Output tok/s", "TTFT p50"]
    assert "## Over all repeats" in markdown_report(summary)
    assert "Everything was measured 3 times" in report_page(summary)
    flags = [flag["text"] for flag in summary["verdicts"]["flags"]]
    assert any(text.startswith("Measured 3 times") for text in flags)
    data = repeated()
    data.modes = data.modes[:1]
    once = build_summary(data)
    assert not repeats_table(once).rows and "repeats" not in markdown_report(once)


def test_a_comparison_takes_the_noise_floor_from_repeats(summary: dict[str, Any]) -> None:
    """Of a single level too, which follows itself: its repeats are told apart by their number."""
    data = repeated()
    parts = parts_of([record for mode in data.modes for record in mode.records])
    assert [len(found) for found in parts.values()] == [3]
    run = ComparedRun("three", summary, parts)
    found = compare_runs([run], [run], slo=SLO)
    rate = next(row for row in found["rows"] if row["measure"] == "output_tok_s")
    assert rate["repeats"] == [3, 3] and rate["floor_from"] == "repeats"
    assert rate["noise_floor"] == pytest.approx(1.2 / 0.9 - 1, rel=0.1)
    assert rate["verdict"] == "cannot tell"


def test_a_run_that_ended_within_a_repeat(tmp_path: Path) -> None:
    """levels.csv has every level, and columns of the repeats' own; what is shown has the number of its repeat."""
    data = repeated()
    other = [replace(one, mode="static") for one in data.modes[0].records]
    data.modes = [replace(data.modes[0], mode="static", records=other), *data.modes[1:]]
    summary = build_summary(data)
    assert [level["repeats"] and level["repeats"]["shown"] for level in summary["levels"]] == [
        None,
        3,
    ]
    write_levels(tmp_path / "levels.csv", summary)
    with (tmp_path / "levels.csv").open(newline="") as file:
        static, continuous = csv.DictReader(file)
    figures = summary["levels"][1]["repeats"]["figures"]["ttft_ms"]
    assert static["repeats_ttft_ms_median"] == "" and static["ttft_ms_median"]
    assert float(continuous["repeats_ttft_ms_median"]) == figures["median"]
    assert float(continuous["ttft_ms_median"]) == figures["values"][1]


def test_the_order_turns_by_one_each_time() -> None:
    """Over as many repeats as systems each of them is first once and last once."""
    orders = [rotated("abc", repeat) for repeat in range(3)]
    assert ["".join(order) for order in orders] == ["abc", "bca", "cab"]


def test_the_middle_of_an_even_number_is_one_of_them() -> None:
    """The lower of the two; what has no value is taken only where nothing has one."""
    assert middle_one([4.0, 1.0, 3.0, 2.0], lambda one: one) == 2.0
    assert middle_one([None, 5.0], lambda one: one) == 5.0
    assert middle_one([None], lambda one: one) is None


def test_bench_repeat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--repeat 2` measures every level twice, keeps all requests, and compares with itself by its repeats."""
    with scripted_server("--gap-ms", "1", "--first-ms", "5") as server:
        argv = ["--target", server.target, "--concurrency", "4", "--workload", "fixed:8:8"]
        code = main([*argv, "--budget-s", "9", "--repeat", "2", "--out", str(tmp_path)])
    assert code == 0, capsys.readouterr().err
    folder = (tmp_path / "latest").resolve()
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert [one.message for one in Draft202012Validator(SCHEMA).iter_errors(summary)] == []
    (level,) = summary["levels"]
    assert (
        level["repeats"]["n"] == 2 and None not in level["repeats"]["figures"]["ttft_ms"]["values"]
    )
    assert [len(parts) for parts in load_run(folder).parts.values()] == [2]
    assert (folder / "raw" / "repeat-2" / "continuous").is_dir()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--repeat", "0"], "'0' is not a number from 1 to 10"),
        (["--repeat", "11"], "'11' is not a number from 1 to 10"),
        (["--repeat", "2", "--rates", "auto"], "give --rates as numbers"),
    ],
)
def test_bad_repeats_are_one_line(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 before anything runs; levels that are found anew each time cannot be repeated."""
    assert main(argv) == 2
    assert says in capsys.readouterr().err

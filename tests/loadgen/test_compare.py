"""Comparing two runs."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadgen.browser import browser, open_page
from loadgen.resampled import as_run, resampled, write_run
from loadgen.sample_run import sample_data
from paceline.client.cli import main as paceline
from paceline.loadgen.compare_cli import exit_code
from paceline.loadgen.compare_page import compare_page
from paceline.loadgen.compare_tables import comparison_table, markdown_comparison
from paceline.loadgen.compared_run import ComparedRun, RunUnreadable, load_run, parts_of
from paceline.loadgen.comparison import compare_runs
from paceline.loadgen.slo import parse_slo
from paceline.loadgen.summary import build_summary
from paceline.loadgen.timing import Record

SLO = parse_slo("ttft_p99=450,tpot_p99=40")
LEVELS = (2, 8)


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    data = sample_data(modes=["continuous"], levels=list(LEVELS), level_s=8.0, baselines=False)
    return build_summary(data)


@pytest.fixture(scope="module")
def records() -> dict[int, list[Record]]:
    """What the simulated server answered, by level."""
    data = sample_data(modes=["continuous"], levels=list(LEVELS), level_s=20.0, baselines=False)
    return {level: [one for one in data.modes[0].records if one.level == level] for level in LEVELS}


def loop(records: dict[int, list[Record]], seed: int, *, slower: float = 1.0) -> list[Record]:
    """One run of both levels, one after the other."""
    made: list[Record] = []
    for at, level in enumerate(LEVELS):
        shift = 100.0 * at
        made += [
            replace(one, t_send=one.t_send + shift, t_end=one.t_end + shift)
            for one in resampled(records[level], level, seed * 10 + at, slower=slower)
        ]
    return made


def test_identical_runs_cannot_be_told_apart(
    summary: dict[str, Any], records: dict[int, list[Record]]
) -> None:
    """Of twenty pairs that differ by chance alone, at most one is called faster or slower."""
    verdicts = [
        compare_runs(
            [as_run("a", summary, loop(records, 2 * seed))],
            [as_run("b", summary, loop(records, 2 * seed + 1))],
            slo=SLO,
            threshold=0.0,
        )["verdict"]
        for seed in range(20)
    ]
    assert verdicts.count("cannot tell") >= 19


def test_a_slowdown_of_a_fifth_is_found(
    summary: dict[str, Any], records: dict[int, list[Record]]
) -> None:
    """At every level throughput and TPOT are called slower, and the other way round faster."""
    base = as_run("base", summary, loop(records, 1))
    slow = as_run("slow", summary, loop(records, 2, slower=1.2))
    found = compare_runs([base], [slow], slo=SLO)
    clear = [row for row in found["rows"] if row["measure"] in ("output_tok_s", "tpot_ms_p50")]
    assert [row["verdict"] for row in clear] == ["slower"] * 4
    assert "faster" not in [row["verdict"] for row in found["rows"]]
    for row in clear:
        low, high = row["change_ci95"]
        assert low < row["change"] < high
        assert abs(row["change"]) == pytest.approx(0.2, abs=0.08)
    assert found["verdict"] == "slower"
    assert compare_runs([slow], [base], slo=SLO)["verdict"] == "faster"


def test_a_threshold_above_the_difference_silences_it(
    summary: dict[str, Any], records: dict[int, list[Record]]
) -> None:
    """Who allows 40 per cent is not told of 20."""
    runs = [as_run("base", summary, loop(records, 1))]
    slow = [as_run("slow", summary, loop(records, 2, slower=1.2))]
    assert compare_runs(runs, slow, slo=SLO, threshold=0.4)["verdict"] == "cannot tell"


def test_the_noise_floor_comes_from_repeats(
    summary: dict[str, Any], records: dict[int, list[Record]]
) -> None:
    """Base runs that differ by 30 per cent among themselves hide a difference of 20."""
    base = [
        as_run("a", summary, loop(records, 1)),
        as_run("b", summary, loop(records, 2, slower=1.3)),
    ]
    new = [as_run("c", summary, loop(records, 3, slower=1.35))]
    found = compare_runs(base, new, slo=SLO)
    rates = [row for row in found["rows"] if row["measure"] == "output_tok_s"]
    for row in rates:
        assert row["floor_from"] == "repeats" and row["repeats"] == [2, 1]
        assert row["noise_floor"] == pytest.approx(0.3, abs=0.1)
        assert row["verdict"] == "cannot tell"
    single = compare_runs(base[:1], new, slo=SLO)["rows"][0]
    assert single["floor_from"] == "sub-windows" and single["verdict"] == "slower"


def test_few_repeats_are_not_trusted(
    summary: dict[str, Any], records: dict[int, list[Record]]
) -> None:
    """Pairs of runs 10 per cent apart do not tell 30 per cent, for their spread is known badly; six of each do."""

    def runs(seed: int, slower: float, times: int) -> list[ComparedRun]:
        return [
            as_run(str(n), summary, loop(records, seed + n, slower=slower * 1.1 ** (n % 2)))
            for n in range(times)
        ]

    for times, verdict in ((2, "cannot tell"), (6, "slower")):
        found = compare_runs(runs(0, 1.0, times), runs(10, 1.3, times), slo=SLO)
        rates = [row for row in found["rows"] if row["measure"] == "output_tok_s"]
        assert {row["verdict"] for row in rates} == {verdict}


def test_a_level_run_again_after_another_is_a_repeat(records: dict[int, list[Record]]) -> None:
    """2, 8, 2 in flight: two parts of the first level, one of the second."""
    once = loop(records, 1)
    again = [
        replace(one, t_send=one.t_send + 300, t_end=one.t_end + 300)
        for one in once
        if one.level == 2
    ]
    parts = parts_of([*once, *again])
    assert {key.value: len(found) for key, found in parts.items()} == {2: 2, 8: 1}


def test_few_requests_give_no_p99(
    summary: dict[str, Any], records: dict[int, list[Record]]
) -> None:
    """Without ten requests beyond it the percentile is not compared, and the table says why."""
    runs = [as_run(name, summary, loop(records, seed)) for name, seed in (("a", 1), ("b", 2))]
    found = compare_runs(runs[:1], runs[1:], slo=SLO)
    row = next(r for r in found["rows"] if r["measure"] == "ttft_ms_p99" and r["value"] == 2)
    assert row["base"] is None and row["verdict"] is None
    assert "n too small" in markdown_comparison(found)


def test_client_bound_levels_are_refused(
    summary: dict[str, Any], records: dict[int, list[Record]]
) -> None:
    """A level whose generator was full says nothing: it is left out, and a gate gives no verdict."""
    full = copy.deepcopy(summary)
    full["levels"][1]["client"]["cpu_pct"] = 97.0
    base = as_run("base", summary, loop(records, 1))
    found = compare_runs([base], [as_run("new", full, loop(records, 2))], slo=SLO)
    assert [one["value"] for one in found["refused"]] == [8]
    assert {row["value"] for row in found["rows"]} == {2}
    assert exit_code(found, gate=True) == 2
    assert exit_code(found, gate=False) == 0


@pytest.fixture(scope="module")
def folders(
    summary: dict[str, Any],
    records: dict[int, list[Record]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Runs on disk: a base, the same again, a slower one, one of another model."""
    root = tmp_path_factory.mktemp("runs")
    other = copy.deepcopy(summary)
    other["fingerprint"]["model"] = "gpt2"
    kinds = {"base": (1, 1.0), "same": (2, 1.0), "slow": (3, 1.2)}
    made = {
        name: write_run(root / name, summary, loop(records, seed, slower=slower))
        for name, (seed, slower) in kinds.items()
    }
    return made | {"other": write_run(root / "other", other, loop(records, 4))}


@pytest.mark.parametrize(
    ("new", "flags", "code"),
    [
        ("same", [], 0),
        ("same", ["--gate"], 0),
        ("slow", [], 0),
        ("slow", ["--gate"], 1),
        ("slow", ["--gate", "--threshold", "60"], 0),
        ("other", [], 2),
        ("other", ["--gate"], 2),
        ("other", ["--force", "--gate"], 2),
    ],
)
def test_exit_codes(
    folders: dict[str, Path],
    new: str,
    flags: list[str],
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """0 is fine, 1 a regression behind a gate, 2 no verdict, whose reason is named."""
    assert paceline(["compare", str(folders["base"]), str(folders[new]), *flags]) == code
    out, err = capsys.readouterr()
    if new != "other":
        assert "| Figure |" in out
    elif "--force" in flags:
        assert "model differs" in out and "**slower**" not in out
    else:
        assert out == "" and "model (SmolLM2-135M-Instruct and gpt2)" in err
        assert err.count("\n") == 1


def test_summary_files_and_repeats_are_taken(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BASE may name summary.json and several runs; --out leaves Markdown, page and JSON."""
    base = f"{folders['base'] / 'summary.json'},{folders['same']}"
    assert paceline(["compare", base, str(folders["slow"]), "--out", str(tmp_path / "c")]) == 0
    out, _ = capsys.readouterr()
    assert out == (tmp_path / "c" / "compare.md").read_text("utf-8")
    found = json.loads((tmp_path / "c" / "compare.json").read_text("utf-8"))
    assert len(found["base"]) == 2
    assert all(math.isfinite(row["change"]) for row in found["rows"] if row["verdict"])
    assert (tmp_path / "c" / "compare.html").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere", "nowhere"],
        ["x"],
        ["x", "y", "--threshold", "-1"],
        ["x", "y", "--slo", "fast"],
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is wrong with the command is said in one line."""
    assert paceline(["compare", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("paceline compare: ") and err.count("\n") == 1


def test_a_damaged_run_is_unreadable(folders: dict[str, Path], tmp_path: Path) -> None:
    """Requests cut off in the middle of the file are no run."""
    (tmp_path / "summary.json").write_bytes((folders["base"] / "summary.json").read_bytes())
    whole = (folders["base"] / "requests.jsonl.gz").read_bytes()
    (tmp_path / "requests.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunUnreadable):
        load_run(tmp_path)


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no Chromium on this machine")
def test_the_page_shows_every_difference(
    summary: dict[str, Any], records: dict[int, list[Record]], tmp_path: Path
) -> None:
    """A line per figure that has a verdict, coloured by it; no network, nothing on the console."""
    base = as_run("base", summary, loop(records, 1))
    slow = as_run("<b>slow</b>", summary, loop(records, 2, slower=1.2))
    found = compare_runs([base], [slow], slo=SLO)
    text = compare_page(found)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    page = open_page(text, tmp_path)
    assert page.console == [] and 'data-ready="yes"' in page.dom
    drawn = [key for key, _ in page.marks("forest", "difference")]
    assert drawn == [row["verdict"] for row in found["rows"] if row["verdict"]]
    assert len(comparison_table(found).rows) == len(found["rows"]) == 12

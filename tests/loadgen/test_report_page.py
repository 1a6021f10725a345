from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loadgen.browser import Page, browser, open_page, tables_of
from loadgen.sample_run import LEVELS, MODES, open_summary, sample_summary
from paceline.loadgen import tables, tables_of_measures
from paceline.loadgen.batches import batch_table
from paceline.loadgen.charts import charts
from paceline.loadgen.report_markdown import markdown_report
from paceline.loadgen.report_page import report_page
from paceline.loadgen.summary import ModeRun, RunData, build_summary
from paceline.loadgen.wording import percent, rate

needs_browser = pytest.mark.skipif(browser() is None, reason="no Chromium on this machine")
MAX_BYTES = 6_000_000


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    """As it is read back from summary.json."""
    read: dict[str, Any] = json.loads(json.dumps(sample_summary()))
    return read


@pytest.fixture(scope="module")
def shown(summary: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Page:
    if browser() is None:
        pytest.skip("no Chromium on this machine")
    return open_page(report_page(summary), tmp_path_factory.mktemp("page"))


HANDLED = """
  const move = (name, value) => {
    const slider = document.querySelector(`#fig-goodput [data-limit="${name}"]`);
    slider.value = value; slider.dispatchEvent(new Event("input"));
    return [...document.querySelectorAll("#fig-goodput .live tbody tr")].map(row => row.children[3].textContent);
  };
  document.body.dataset.strict = move("ttft", 0).join();
  move("tpot", 1000);
  document.body.dataset.free = move("ttft", 1000).join();
  const seen = [];
  for (const button of document.querySelectorAll(".views button")) {
    button.click();
    const figure = button.closest("figure");
    seen.push(`${figure.id}/${button.textContent}/${figure.querySelectorAll(".series, .bar").length}`);
  }
  document.body.dataset.seen = seen.join(";");
  document.querySelector('#fig-headline .legend [data-key="static"]').click();
"""


@pytest.fixture(scope="module")
def handled(summary: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page after somebody moved its sliders, chose every view and clicked on a legend."""
    if browser() is None:
        pytest.skip("no Chromium on this machine")
    return open_page(report_page(summary), tmp_path_factory.mktemp("page"), script=HANDLED)


def test_the_page_is_one_small_file_that_asks_for_nothing(summary: dict[str, Any]) -> None:
    """No element, style or script names anything outside the page."""
    page = report_page(summary)
    addresses = re.findall(r'\b(?:src|href|action)\s*=\s*"?([^"\s>]*)', page)
    assert [one for one in addresses if not one.startswith(("#", "data:"))] == []
    assert re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", page) == []
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert len(page.encode()) < MAX_BYTES


@pytest.mark.browser
def test_scripts_run_to_their_end_without_a_word_on_the_console(shown: Page) -> None:
    """No error, no warning, and the last line of the script was reached."""
    assert shown.console == []
    assert 'data-ready="yes"' in shown.dom


@pytest.mark.browser
def test_every_chart_is_drawn(shown: Page, summary: dict[str, Any]) -> None:
    """Each chart the summary has data for has its figure, and each figure its picture."""
    assert set(shown.figures) == set(charts(summary))
    assert len(shown.figures) == 16
    for name, html in shown.figures.items():
        assert re.search(r"<svg[^>]+viewBox", html), name
        assert not re.search(r"NaN|undefined|Infinity", html), name


@pytest.mark.browser
def test_the_headline_has_a_line_per_mode_and_a_point_per_level(shown: Page) -> None:
    """Sequential at 32 had no request that ended in time, so it has one point less."""
    drawn = dict(shown.marks("fig-headline", "series"))
    points = {mode: 5 if mode == "sequential" else len(LEVELS) for mode in MODES}
    assert drawn == points
    assert shown.figures["fig-headline"].count('class="point"') == sum(points.values())


@pytest.mark.browser
def test_baselines_stand_beside_the_modes(shown: Page) -> None:
    """Throughput and time against batch size hold six systems."""
    for figure in ("fig-throughput", "fig-time"):
        drawn = dict(shown.marks(figure, "series"))
        assert drawn == dict.fromkeys(MODES, 6) | {"transformers": 1, "transformers-batched": 6}


@pytest.mark.browser
def test_occupancy_lanes_padding_and_phases_are_complete(
    shown: Page, summary: dict[str, Any]
) -> None:
    """Every mode has its panel, its rows, its bar and its line of phases."""
    panels = dict(shown.marks("fig-occupancy", "panel"))
    assert panels == {mode: len(summary["timeline"][mode]["t_s"]) for mode in MODES}
    assert [key for key, _ in shown.marks("fig-lanes", "lanes")] == MODES
    bars = [key for key, _ in shown.marks("fig-padding", "bar")]
    assert bars == [*MODES, "transformers-batched"]
    assert len(shown.marks("fig-gantt", "gantt")) == len(MODES) + 2


@pytest.mark.browser
def test_tables_hold_the_figures_of_the_summary(shown: Page, summary: dict[str, Any]) -> None:
    """The table of levels equals summary.json, cell by cell where a number is printed as it is."""
    all_tables = tables_of(shown.dom)
    table = next(
        one for one in all_tables if one[0][:2] == ["Mode", "In flight"] and "Cut" in one[0]
    )
    assert len(table) - 1 == len(summary["levels"])
    columns = {name: table[0].index(name) for name in table[0]}
    for row, level in zip(table[1:], summary["levels"], strict=True):
        assert row[columns["In flight"]] == str(level["target"]["value"])
        assert row[columns["Output tok/s"]] == rate(level["throughput"]["output_tok_s"])
        assert row[columns["Padding"]] == percent(level["server"]["padding_waste"])
        assert row[columns["Requests"]] == str(level["counts"]["ok"])
    for made in (
        batch_table,
        tables.padding_table,
        tables.where_table,
        tables.latency_table,
        tables_of_measures.goodput_table,
        tables_of_measures.fairness_table,
        tables_of_measures.health_table,
        tables_of_measures.speed_table,
        tables_of_measures.fit_table,
    ):
        wanted = made(summary)
        cells = [list(wanted.headings), *(list(row.cells) for row in wanted.rows)]
        assert cells in all_tables, made.__name__


@pytest.mark.browser
def test_a_click_on_a_legend_hides_its_line(handled: Page) -> None:
    """The others stay, and the axes fit what is left."""
    left = [key for key, _ in handled.marks("fig-headline", "series")]
    assert left == [mode for mode in MODES if mode != "static"]


@pytest.mark.browser
def test_every_view_of_every_chart_draws(handled: Page) -> None:
    """Choosing each view in turn leaves a picture without broken numbers and a quiet console."""
    assert handled.console == []
    assert not re.search(r"NaN|undefined|Infinity", handled.figures["fig-latency"])
    seen = re.search(r'data-seen="([^"]*)"', handled.dom)
    assert seen is not None
    counts = dict(entry.rsplit("/", 1) for entry in seen.group(1).split(";"))
    assert len(counts) == 3 + 4 + 2 + 4 + 4 + 4 + 3  # … timeline, curves, histograms, goodput
    assert {counts[name] for name in counts if name.startswith("fig-latency")} == {"4"}


@needs_browser
@pytest.mark.browser
def test_the_page_counts_goodput_as_the_summary_does(tmp_path: Path) -> None:
    """The page's own count equals summary.json's for the same SLO."""
    again = sample_summary(slo=["ttft=700,tpot=30"])
    page = open_page(report_page(again), tmp_path)
    live = next(
        table for table in tables_of(page.dom) if "Goodput req/s" in table[0] and len(table[0]) == 6
    )
    wanted = [
        [f"{one['good']} of {one['judged']}", f"{one['req_s']:.2f}"]
        for level in again["levels"]
        for one in level["goodput"]
    ]
    whole = [level["detail"]["every"] == 1 for level in again["levels"]]
    assert sum(whole) > len(whole) / 2
    for row, numbers, is_whole in zip(live[1:], wanted, whole, strict=True):
        assert [row[2], row[4]] == numbers or not is_whole
    assert len({row[2] for row in live[1:]}) > 3


@pytest.mark.browser
def test_a_slider_moves_the_goodput(handled: Page, summary: dict[str, Any]) -> None:
    """The strictest TTFT leaves nothing good; no limit at all makes every ended request good."""
    strict, free = (
        re.findall(rf'data-{name}="([^"]*)"', handled.dom)[0].split(",")
        for name in ("strict", "free")
    )
    assert set(strict) == {"0 %"} and len(strict) == len(summary["levels"])
    assert set(free) == {"100 %", "–"} and free.count("–") == 1  # one level in which nothing ended


@needs_browser
@pytest.mark.browser
def test_nothing_is_wider_than_a_phone(summary: dict[str, Any], tmp_path: Path) -> None:
    """At 500 pixels, the narrowest window the browser makes, only tables scroll, inside their own box."""
    script = "document.body.dataset.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;"
    page = open_page(report_page(summary), tmp_path, script=script, width=500)
    assert 'data-wide="0"' in page.dom


@needs_browser
@pytest.mark.browser
def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    """A model name or an error that looks like markup is shown, not run."""
    hostile = sample_summary(modes=["continuous"], levels=[1, 4], level_s=3.0, baselines=False)
    hostile["fingerprint"]["model"] = "</title><script>console.error(1)</script>"
    hostile["run"]["notes"] = ["</script><img src=x onerror=console.error(2)>"]
    hostile["phases"][0]["label"] = "</script><script>console.error(3)</script>"
    page = open_page(report_page(hostile), tmp_path)
    assert page.console == []
    assert 'data-ready="yes"' in page.dom


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("modes", [["sequential"], ["static", "dynamic"]])
def test_a_run_of_few_modes_is_a_whole_page(modes: list[str], tmp_path: Path) -> None:
    """What was not run leaves no empty chart and no broken sentence."""
    summary = sample_summary(modes=modes, levels=[2, 8], level_s=5.0, baselines=False, partial=True)
    page = open_page(report_page(summary), tmp_path)
    assert page.console == []
    assert set(page.figures) == set(charts(summary))
    assert "Partial: stopped by Ctrl-C" in page.dom


def test_an_empty_run_still_makes_a_page() -> None:
    """Nothing measured: the page says so and has no charts of levels."""
    data = sample_run_without_records()
    page = report_page(build_summary(data))
    assert "Nothing was measured" in page
    assert 'id="fig-headline"' not in page


def sample_run_without_records() -> RunData:
    """A run whose only server never answered."""
    run = {"id": "r", "started_at": "now", "duration_s": 1.0, "command": "c", "seed": 0}
    run |= {
        "workload": "chat",
        "quick": False,
        "partial": True,
        "partial_reason": "gone",
        "notes": [],
    }
    mode = ModeRun("continuous", error="the server ended by itself")
    return RunData(run, {}, {}, {"requests": 8, "output_tokens": 100}, modes=[mode])


def test_an_open_loop_is_told_in_rates() -> None:
    """Tables, titles and Markdown name levels by requests a second; what was in flight is a figure of its own."""
    summary = open_summary([2, 8])
    page, text = report_page(summary), markdown_report(summary)
    for word in ("Latency against rate", "Each point with its rate", "at 8 requests a second"):
        assert word in page
    for table in (
        batch_table(summary),
        tables.padding_table(summary),
        tables.levels_table(summary),
    ):
        level = 0 if table.headings[0] == "Rate" else table.headings.index("Rate")
        assert [row.cells[level] for row in table.rows] == ["2/s", "8/s"]
    assert "| In flight |" not in text.split("## The load generator's health")[0]
    assert "vs sequential" not in text, "there is no sequential mode to compare with"
    assert "8 in flight" not in page + text

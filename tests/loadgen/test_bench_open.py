"""`paceline bench` as an open loop, against a scripted server."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.browser import browser, open_page
from loadgen.conftest import scripted_server
from loadgen.test_bench import WAIT_S, _log, read, until
from paceline.loadgen.bench_cli import main
from paceline.loadgen.schedule import make_schedule, schedule_digest

FAST = ("--gap-ms", "1", "--first-ms", "5")


def newest(out: Path) -> Path:
    return (out / "latest").resolve()


def test_rates_are_levels_of_an_ordinary_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file is written, levels are known by their rate, and the page opens without an error."""
    with scripted_server(*FAST) as server:
        argv = ["--target", server.target, "--rates", "5,20", "--workload", "fixed:8:8"]
        assert main([*argv, "--budget-s", "22", "--out", str(tmp_path)]) == 0
    folder = newest(tmp_path)
    summary = read(folder)
    assert [level["target"] for level in summary["levels"]] == [
        {"kind": "rate", "value": 5.0},
        {"kind": "rate", "value": 20.0},
    ]
    told = summary["run"]["open"]["continuous"]
    for one, level in zip(told["levels"], summary["levels"], strict=True):
        times = make_schedule("poisson", one["rate"], one["seconds"], 0).times
        assert one["sha256"] == schedule_digest(times)
        assert one["arrivals"] == len(times) == level["client"]["arrivals"]
    assert summary["fingerprint"]["arrival"] == "poisson"
    headline = "Continuous batching kept up with 20 requests a second: the first token came "
    assert summary["verdicts"]["headline"].startswith(headline)
    printed = capsys.readouterr().out
    assert "| Continuous | 20/s |" in printed and "20 per second: " in printed
    with (folder / "levels.csv").open() as table:
        assert [row["rate"] for row in csv.DictReader(table)] == ["5.0", "20.0"]
    report = (folder / "report.md").read_text("utf-8")
    assert "| Mode | Rate |" in report and "How much load does it keep up with?" in report
    page = (folder / "report.html").read_text("utf-8")
    assert "Latency against rate" in page
    if browser():
        assert open_page(page, tmp_path).console == []


@pytest.mark.slow
def test_auto_measures_the_saturation_first(tmp_path: Path) -> None:
    """Rates are fractions of what a closed loop ended, and its requests are in no level."""
    with scripted_server(*FAST) as server:
        argv = ["--target", server.target, "--rates", "auto", "--quick", "--workload", "fixed:8:30"]
        code = main([*argv, "--budget-s", "32", "--out", str(tmp_path)])
    summary = read(newest(tmp_path))
    assert code == 0, summary["run"]
    told = summary["run"]["open"]["continuous"]
    saturation = told["saturation_req_s"]
    assert 0 < saturation < 32 / 0.034
    rates = [one["rate"] for one in told["levels"]]
    assert rates == [float(f"{share * saturation:.2g}") for share in (0.25, 0.5, 0.8, 1.2)]
    assert {level["target"]["value"] for level in summary["levels"]} <= set(rates)


@pytest.mark.slow
def test_a_search_names_the_highest_rate(tmp_path: Path) -> None:
    """Bounded in levels, each with its attainment; the answer is one that met the SLO."""
    with scripted_server(*FAST) as server:
        argv = ["--target", server.target, "--search", "--slo", "ttft_p90=60", "--quick"]
        assert main([*argv, "--budget-s", "26", "--out", str(tmp_path)]) == 0
    summary = read(newest(tmp_path))
    search = summary["run"]["open"]["continuous"]["search"]
    assert 1 <= len(search["tried"]) <= 5
    met = [one["rate"] for one in search["tried"] if one["met"]]
    assert search["rate"] in (met or [None])
    assert "ttft_p90=60" in summary["verdicts"]["headline"]
    assert len({level["target"]["value"] for level in summary["levels"]}) == len(search["tried"])


@pytest.mark.slow
def test_what_was_measured_is_kept(tmp_path: Path) -> None:
    """A dying server ends it with one line; the levels until then are reported as partial."""
    command = [sys.executable, str(Path(__file__).with_name("scripted_server.py")), *FAST]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        target = f"127.0.0.1:{int(server.stdout.readline())}"
        line = [sys.executable, "-m", "paceline.client.cli", "bench", "--target", target]
        line += ["--rates", "10,20", "--workload", "fixed:8:8", "--budget-s", "24"]
        bench = subprocess.Popen(
            [*line, "--out", str(tmp_path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: "rate 20: open" in _open_log(tmp_path))
            os.kill(server.pid, signal.SIGKILL)
            _, errors = bench.communicate(timeout=WAIT_S)
        finally:
            bench.kill()
            server.kill()
    kept = "what was measured until then is kept\n"
    assert bench.returncode == 1
    assert errors == f"paceline bench: {target} stopped answering; {kept}"
    summary = read(newest(tmp_path))
    assert summary["run"]["partial"]
    assert summary["levels"][0]["target"]["value"] == 10.0
    assert summary["levels"][0]["counts"]["failed"] == 0


def _open_log(out: Path) -> str:
    return _log(out) + "".join(path.read_text() for path in out.glob("*/raw/*/*/locust.log"))

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jsonschema import Draft202012Validator

import paceline.loadgen.baseline_runs as baseline_runs
import paceline.loadgen.servers as servers
from loadgen.conftest import scripted_server
from loadgen.sample_run import sample_summary
from loadgen.synthetic import baseline_points
from loadgen.test_summary import SCHEMA
from paceline.loadgen.bench_cli import main
from paceline.loadgen.bench_options import BenchOptions, parse
from paceline.loadgen.run_folder import RunFolder
from paceline.loadgen.tables import levels_table, short_table
from paceline.loadgen.wording import rate

MOCK = Path(__file__).parent.parent / "mock_serving.py"
WAIT_S = 80.0


def until(condition: Callable[[], bool]) -> None:
    """Looks again and again; an AssertionError after WAIT_S."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def read(folder: Path) -> dict[str, Any]:
    """The summary, which must fit its schema."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text("utf-8"))
    assert [one.message for one in Draft202012Validator(SCHEMA).iter_errors(summary)] == []
    return summary


def children() -> list[str]:
    """Command lines of this process's children, Locust and servers, that still run."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(child.cmdline()))
        except psutil.NoSuchProcess:
            continue
    return [line for line in found if "locust" in line or "mock_serving" in line]


@pytest.fixture
def mock_modes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`paceline serve` is replaced by the whole server on a model without weights, two milliseconds a step."""
    real = servers.serve_command

    def command(options: BenchOptions, mode: str, port: int) -> list[str]:
        return [sys.executable, str(MOCK), *real(options, mode, port)[4:]]

    monkeypatch.setattr(servers, "serve_command", command)
    monkeypatch.setattr(servers, "prepare_command", lambda _: [])
    monkeypatch.setenv("STEP_S", "0.002")
    yield
    assert children() == []


@pytest.mark.slow
def test_every_mode_is_measured_and_every_file_written(
    mock_modes: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Servers, Locust, poller and baselines end to end: continuous batching fills rows that static leaves empty."""
    lines = "".join(json.dumps(point) + "\n" for point in baseline_points([1, 8]))
    script = f"import sys; sys.stdout.write({lines!r})"
    monkeypatch.setattr(
        baseline_runs, "baseline_command", lambda *_: [sys.executable, "-c", script]
    )
    argv = ["--modes", "static,continuous", "--concurrency", "1,8", "--budget-s", "48"]
    assert main([*argv, "--out", str(tmp_path)]) == 0

    folder = (tmp_path / "latest").resolve()
    summary = read(folder)
    assert not summary["run"]["partial"], summary["run"]
    targets = [(level["mode"], level["target"]["value"]) for level in summary["levels"]]
    assert targets == [("static", 1), ("static", 8), ("continuous", 1), ("continuous", 8)]
    assert all(level["integrity"]["token_mismatch"] == 0 for level in summary["levels"])
    rows = {level["mode"]: level["server"]["batch_mean"] for level in summary["levels"][1::2]}
    assert rows["continuous"] > rows["static"] > 1
    assert len(summary["baselines"]) == 3
    assert {phase["kind"] for phase in summary["phases"]} == {"setup", "level", "drain"}
    assert_files(folder, summary)
    printed = capsys.readouterr().out
    assert short_table(summary).markdown() in printed
    assert f"Report: {tmp_path}" in printed


def assert_files(folder: Path, summary: dict[str, Any]) -> None:
    """Everything the run promises, and that it agrees with the summary."""
    with gzip.open(folder / "requests.jsonl.gz", "rt") as lines:
        requests = [json.loads(line) for line in lines]
    assert len(requests) == sum(level["counts"]["sent"] for level in summary["levels"])
    samples = [
        json.loads(line) for line in (folder / "server_metrics.jsonl").read_text().splitlines()
    ]
    assert {sample["mode"] for sample in samples} == {
        system["mode"] for system in summary["systems"]
    }
    with (folder / "levels.csv").open() as table:
        written = list(csv.DictReader(table))
    assert [float(row["output_tok_s"]) for row in written] == [
        level["throughput"]["output_tok_s"] for level in summary["levels"]
    ]
    assert json.loads((folder / "env.json").read_text()) == summary["environment"]
    assert levels_table(summary).markdown() in (folder / "report.md").read_text("utf-8")
    assert "<html" in (folder / "report.html").read_text("utf-8")
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert len(pictures) == 7
    assert all((folder / name).stat().st_size > 5000 for name in pictures)


def test_a_running_server_is_measured_alone(tmp_path: Path) -> None:
    """With a target nothing is started but the load; the report has a row per kind and says what was scaled to fit."""
    small = ("--gap-ms", "1", "--first-ms", "5", "--context-tokens", "200")
    with scripted_server(*small) as server:
        argv = ["--target", server.target, "--concurrency", "1,4", "--budget-s", "10"]
        argv += ["--mix", "chat=1,mixed=1", "--probe", "5", "--out", str(tmp_path)]
        assert main(argv) == 0
    folder = (tmp_path / "latest").resolve()
    summary = read(folder)
    assert [system["mode"] for system in summary["systems"]] == ["continuous"]
    assert [level["target"]["value"] for level in summary["levels"]] == [1, 4]
    assert summary["baselines"] == []
    assert summary["environment"]["placement"] == f"server at {server.target}"
    run, level = summary["run"], summary["levels"][1]
    assert run["schedule_sha256"] and run["workload"] == "chat=1,mixed=1"
    kinds = {kind["kind"]: kind["counts"]["sent"] for kind in level["kinds"]}
    assert list(kinds) == ["chat", "mixed/long", "mixed/short", "probe"]
    assert sum(kinds.values()) - kinds["probe"] == level["counts"]["sent"]
    assert "| probe |" in (folder / "report.md").read_text("utf-8")
    fit = run["lengths"]["factors"]["mixed"]["fit"]
    assert run["lengths"]["context_tokens"] == 200 and 0 < fit < 1
    assert f"{fit:g}" in run["notes"][0]


def test_a_dead_target_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, and no folder."""
    assert main(["--target", "127.0.0.1:1", "--out", str(tmp_path / "bench")]) == 2
    printed = capsys.readouterr().err
    assert printed == "paceline bench: 127.0.0.1:1: no server answers (UNAVAILABLE)\n"
    assert not (tmp_path / "bench").exists()


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """The first level is reported, marked as partial; the load generator is gone."""
    with scripted_server("--gap-ms", "1") as server:
        command = [sys.executable, "-m", "paceline.client.cli", "bench", "--target", server.target]
        command += ["--concurrency", "2,4", "--budget-s", "22", "--out", str(tmp_path)]
        bench = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: "level 4: open" in _log(tmp_path))
            children = psutil.Process(bench.pid).children(recursive=True)
            bench.send_signal(signal.SIGINT)
            _, errors = bench.communicate(timeout=WAIT_S)
        finally:
            bench.kill()
    assert bench.returncode == 130
    assert errors == ("paceline bench: stopped by Ctrl-C; what was measured until then is kept\n")
    assert not [child for child in children if child.is_running()]
    summary = read((tmp_path / "latest").resolve())
    assert summary["run"]["partial"]
    assert summary["levels"][0]["target"]["value"] == 2
    assert summary["levels"][0]["throughput"]["output_tok_s"] > 0


def _log(out: Path) -> str:
    return "".join(path.read_text() for path in out.glob("*/raw/*/locust.log"))


@pytest.mark.slow
def test_a_dying_server_ends_its_mode_and_not_the_run(
    mock_modes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says which; the mode after it is measured."""
    killer = threading.Thread(target=_kill_server, args=(tmp_path,))
    killer.start()
    argv = ["--modes", "dynamic,continuous", "--concurrency", "1,2", "--no-baselines"]
    code = main([*argv, "--budget-s", "36", "--out", str(tmp_path)])
    killer.join()
    assert code == 1
    assert "the dynamic server ended by itself (exit code -9)" in capsys.readouterr().err
    summary = read((tmp_path / "latest").resolve())
    assert summary["run"]["partial"]
    errors = {system["mode"]: system["error"] for system in summary["systems"]}
    assert errors["continuous"] is None
    assert errors["dynamic"].startswith("the dynamic server ended by itself")
    assert "continuous" in {level["mode"] for level in summary["levels"]}


def _kill_server(out: Path) -> None:
    until(lambda: any(out.glob("*/raw/dynamic/requests.0.jsonl")))
    for child in psutil.Process().children():
        if "mock_serving" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)


def test_a_server_that_does_not_start_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own last line, exit code 2, no folder."""
    script = "import sys; sys.exit('paceline serve: no model at nowhere')"
    monkeypatch.setattr(servers, "serve_command", lambda *_: [sys.executable, "-c", script])
    monkeypatch.setattr(servers, "prepare_command", lambda _: [])
    assert main(["--out", str(tmp_path)]) == 2
    assert "paceline serve: no model at nowhere" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_had_ends_the_bench_before_it_begins(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The child that prepares the model says why in one line; exit code 2, no folder, no server."""
    out = tmp_path / "bench"
    assert main(["--model", str(tmp_path / "nowhere"), "--out", str(out)]) == 2
    printed = capfd.readouterr().err
    assert printed == f"paceline: no such model folder or file: {str(tmp_path / 'nowhere')!r}\n"
    assert not out.exists()


def test_random_weights_need_no_model(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is fetched where the flags ask for random weights, whichever way they reach the servers."""
    assert servers.prepare_model(parse(["--dummy-weights", "gpt2"])) == 0
    assert servers.prepare_command(parse(["--serve-arg=--dummy-weights=gpt2"])) == []
    assert capfd.readouterr().err == ""


def test_latest_points_to_the_newest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in the same second have folders of their own; a folder called `latest` is left alone."""
    monkeypatch.setattr("paceline.loadgen.figures.write_figures", lambda *_: None)
    summary = sample_summary(modes=["continuous"], levels=[1], level_s=2.0, baselines=False)
    for name in ("a", "a"):
        folder = RunFolder(tmp_path, name)
        folder.write_report(summary)
        assert (tmp_path / "latest").resolve() == folder.path
    assert rate(summary["levels"][0]["throughput"]["output_tok_s"]) in folder.report.read_text()
    other = tmp_path / "other"
    (other / "latest").mkdir(parents=True)
    RunFolder(other, "a").write_report(summary)
    assert not (other / "latest").is_symlink()

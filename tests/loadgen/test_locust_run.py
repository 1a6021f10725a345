"""Locust as people run it, against a scripted server."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loadgen.conftest import Run, RunLocust, ScriptedServer, quiet_environment
from paceline.loadgen.command import command_line
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.recorder import read_requests
from paceline.loadgen.statistics import group_levels, summarise_level
from paceline.loadgen.timing import Record
from paceline.loadgen.window import in_flight_steps

SHORT = LoadOptions(level_min_s=0.3, level_max_s=8.0, level_requests=12, drain_s=5.0)


def write_prompts(path: Path, scripts: list[dict[str, Any]], max_tokens: int) -> str:
    lines = [
        json.dumps({"id": f"p{i}", "prompt": json.dumps(script), "max_tokens": max_tokens})
        for i, script in enumerate(scripts)
    ]
    path.write_text("\n".join(lines))
    return str(path)


def timed_run(run_locust: RunLocust, options: LoadOptions, users: int, least: int) -> Run:
    """A run that ends by its time: a longer one where a busy machine spent a short one on its start."""
    for seconds in (2, 6, 18):
        out = f"{options.out}-{seconds}"
        run = run_locust(replace(options, out=out), users=users, run_time_s=seconds)
        if len(run.records) >= least:
            break
    return run


def numbers(run: Run, level: float) -> list[int]:
    """Request numbers sent at this level."""
    return sorted(int(r.id.rsplit("-", 1)[1]) for r in run.records if r.level == level)


@pytest.fixture(scope="module")
def sweep(
    server: ScriptedServer, run_locust: RunLocust, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run of three levels whose requests all ask for ten tokens."""
    out = str(tmp_path_factory.mktemp("sweep") / "out")
    options = replace(SHORT, target=server.target, concurrency=(1, 4, 2), out=out)
    return run_locust(replace(options, label="scripted", workload="fixed:20:10"))


def test_sweep(sweep: Run) -> None:
    """A sweep runs every level, up and down, with exactly its users, and no request spans two levels."""
    run = sweep
    levels = group_levels(run.records)
    assert list(levels) == [1, 4, 2]
    for before, after in pairwise(levels.values()):
        assert max(r.t_end for r in before) < min(r.t_send for r in after)
    for level, records in levels.items():
        assert max(flying for _, flying in in_flight_steps(records)) == level
        assert sum(not r.measured for r in records) == level
        assert sum(r.measured and r.ok for r in records) >= 12
        assert numbers(run, level) == list(range(len(records)))
        summary = summarise_level(records, level)
        assert summary["stable"]["verdict"] == "steady"
        assert summary["integrity"]["token_mismatch"] == 0
    assert run.requests == len(run.records)
    assert run.failures == 0


def test_records_count_tokens(sweep: Run) -> None:
    """Tokens are counted by the server's own count, three a message, and times follow the script."""
    (header,) = sweep.headers
    assert header["mode"] == "scripted" and header["workload"] == "fixed"
    for record in sweep.records:
        assert record.ok and not record.gap
        assert record.tokens == [3, 3, 3, 1]
        assert record.output_tokens == record.requested_tokens == 10
        assert record.finish == "MAX_TOKENS" and record.mode == "scripted"
        assert record.ttft_s is not None and record.ttft_s >= 0.020
        assert sum(record.stamps_us) >= 26_000  # nothing comes before its time in the script
        assert record.server is not None and record.server.ttft_ms == 20.0
        assert record.t_send + sum(record.stamps_us) / 1e6 <= record.t_end + 1e-5


def test_users_without_levels(
    server: ScriptedServer, run_locust: RunLocust, tmp_path: Path
) -> None:
    """`--users` alone is a plain closed loop at that concurrency."""
    out = str(tmp_path / "out")
    run = timed_run(run_locust, LoadOptions(target=server.target, out=out), users=4, least=10)
    assert {r.level for r in run.records} == {4}
    assert max(flying for _, flying in in_flight_steps(run.records)) == 4
    assert [r.phase for r in run.records[:5]] == ["warmup"] * 4 + ["measure"]
    assert run.requests == sum(not r.cut for r in run.records)


def test_two_processes(server: ScriptedServer, run_locust: RunLocust, tmp_path: Path) -> None:
    """With two processes the levels are split over both, and together they send the same requests."""
    out = str(tmp_path / "out")
    options = replace(SHORT, target=server.target, concurrency=(1, 4), out=out)
    run = run_locust(options, processes=2)
    assert {header["worker"] for header in run.headers} == {0, 1}
    at_four = [r for r in run.records if r.level == 4]
    assert Counter(r.worker for r in at_four).keys() == {0, 1}
    assert max(flying for _, flying in in_flight_steps(at_four)) == 4
    assert len({r.id for r in run.records}) == len(run.records)
    assert numbers(run, 1) == list(range(len(numbers(run, 1))))
    assert numbers(run, 4)[:8] == list(range(8))
    assert run.requests == len(run.records)
    # Locust's own histogram came through from both workers with three digits, not its usual two.
    kept: Counter[float] = Counter()
    for row in run.rows:
        kept.update({float(ms): n for ms, n in row["response_times"].items()})
    assert kept.total() == len(run.records)
    for record in run.records:
        assert any(abs(ms / (record.e2e_s * 1e3) - 1) < 0.006 for ms in kept)


def test_late_requests_are_cut(
    own_server: ScriptedServer, run_locust: RunLocust, tmp_path: Path
) -> None:
    """What outlasts the drain is cancelled and marked as cut; it is no failure, and the next level runs."""
    stuck = [{"first_ms": 60_000.0}] * 2 + [{"first_ms": 20.0}] * 200
    workload = write_prompts(tmp_path / "stuck.jsonl", stuck, max_tokens=4)
    out = str(tmp_path / "out")
    options = replace(SHORT, target=own_server.target, workload=workload, out=out, drain_s=0.5)
    run = run_locust(replace(options, concurrency=(3, 4), level_min_s=0.0, level_requests=4))
    # On a busy machine fast ones may be cut too.
    cut = {r.id: r for r in run.records if r.cut}
    late = {f"run-{place}-p{number}" for place in (0, 1) for number in (0, 1)}
    assert late <= cut.keys()
    assert all(r.status == "CANCELLED" for r in cut.values())
    assert all(cut[name].ttft_s is None for name in late)
    assert group_levels(run.records).keys() == {3, 4}
    assert run.failures == 0
    assert run.requests == len(run.records) - len(cut)
    assert 4 <= own_server.until_idle().requests_rejected <= len(cut)


def test_end_of_run_cuts_cleanly(
    own_server: ScriptedServer, run_locust: RunLocust, tmp_path: Path
) -> None:
    """The end of a timed run kills users in mid-stream: their streams are cancelled, not failed."""
    long = [{"first_ms": 10.0, "gap_ms": 20.0}]
    workload = write_prompts(tmp_path / "long.jsonl", long, max_tokens=10_000)
    out = str(tmp_path / "out")
    options = LoadOptions(target=own_server.target, workload=workload, out=out)
    run = timed_run(run_locust, options, users=3, least=3)
    assert [r.cut for r in run.records] == [True] * 3
    assert all(r.counted_tokens > 2 and r.tpot_s for r in run.records)
    assert run.requests == run.failures == 0
    load = own_server.until_idle()
    assert load.requests_rejected >= 3 and load.requests_finished == 0


def test_lost_messages_and_refusals_are_noticed(
    server: ScriptedServer, run_locust: RunLocust, tmp_path: Path
) -> None:
    """A message that never came is a gap by its neighbours' offsets; a status is a failure under its own name."""
    scripts: list[dict[str, Any]] = [
        {"per_message": 2, "skip": 1},
        {"first_ms": 1.0, "status": "RESOURCE_EXHAUSTED"},
        {"per_message": 2},
    ]
    workload = write_prompts(tmp_path / "mixed.jsonl", scripts, max_tokens=8)
    out = str(tmp_path / "out")
    options = replace(SHORT, target=server.target, workload=workload, out=out, concurrency=(2,))
    run = run_locust(options)
    kinds: dict[str, list[Record]] = {"p0": [], "p1": [], "p2": []}
    for record in run.records:
        kinds[record.id.split("-")[2][:2]].append(record)
    assert {(r.gap, r.counted_tokens) for r in kinds["p0"]} == {(True, 6)}
    assert {r.status for r in kinds["p1"]} == {"RESOURCE_EXHAUSTED"}
    assert {(r.gap, r.counted_tokens) for r in kinds["p2"]} == {(False, 8)}
    assert len({record.id for record in run.records}) == len(run.records) >= 12
    assert run.failures == len(kinds["p1"])
    assert run.requests == len(run.records)
    assert "first RESOURCE_EXHAUSTED" in run.log and "as scripted" in run.log


def test_dead_server(run_locust: RunLocust, tmp_path: Path, free_port: int) -> None:
    """With nobody listening the run ends in bounded time and does not hammer."""
    out = str(tmp_path / "out")
    options = replace(SHORT, target=f"127.0.0.1:{free_port}", concurrency=(2,), out=out)
    run = run_locust(replace(options, level_max_s=1.5))
    assert {r.status for r in run.records} == {"UNAVAILABLE"}
    assert run.failures == run.requests == len(run.records) <= 20
    assert f"is a server running at {options.target}?" in run.log


def test_terminated_run_keeps_its_records(own_server: ScriptedServer, tmp_path: Path) -> None:
    """SIGTERM in mid-stream ends the run at once: streams cut, records written, nothing failed."""
    out = tmp_path / "out"
    endless = LoadOptions(target=own_server.target, workload="fixed:20:100000", out=str(out))
    command = [*command_line(endless, users=4), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=quiet_environment()
    ) as process:
        deadline = time.monotonic() + 60
        while own_server.load().running < 4:
            assert time.monotonic() < deadline and process.poll() is None
        process.terminate()
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(printed) == []
    _, records = read_requests(out)
    assert [(r.status, r.cut) for r in records] == [("CANCELLED", True)] * 4

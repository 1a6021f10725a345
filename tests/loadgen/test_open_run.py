"""The open loop in Locust as people run it, against a scripted server."""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from loadgen.conftest import RunLocust, ScriptedServer, quiet_environment
from loadgen.test_locust_run import write_prompts
from paceline.loadgen.command import command_line
from paceline.loadgen.conversation import think_time
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.recorder import read_requests
from paceline.loadgen.schedule import make_schedule
from paceline.loadgen.statistics import group_levels, summarise_level
from paceline.loadgen.timing import Record

SHORT = LoadOptions(level_max_s=2.0, drain_s=5.0, workload="fixed:8:6", seed=4)


def offsets(records: list[Record]) -> list[float]:
    """Intended times from the first of them on, in order."""
    times = sorted(record.t_int for record in records if record.t_int is not None)
    return [time - times[0] for time in times]


def planned(rate: float, seconds: float) -> list[float]:
    times = make_schedule("poisson", rate, seconds, SHORT.seed).times
    return [time - times[0] for time in times]


def test_levels_by_rate(server: ScriptedServer, run_locust: RunLocust, tmp_path: Path) -> None:
    """Each rate is a level whose intended times are the schedule's, with one event for each request."""
    options = replace(SHORT, target=server.target, rates=(10.0, 30.0), out=str(tmp_path / "out"))
    run = run_locust(replace(options, over_saturation="continue"))  # as a busy machine may be
    levels = group_levels(run.records)
    assert list(levels) == [10.0, 30.0]
    for rate, records in levels.items():
        assert offsets(records) == pytest.approx(planned(rate, 2.0), abs=1e-4)
        summary = summarise_level(records, rate)
        assert summary["target"] == {"kind": "rate", "value": rate}
        assert summary["client"]["arrivals"] == len(records) == rate * 2
        assert {record.phase for record in records} == {"warmup", "measure"}
    assert run.requests == len(run.records) and run.failures == 0
    assert {row["name"] for row in run.rows} == {"fixed/10 per s", "fixed/30 per s"}


def test_four_processes_send_at_one_rate(
    server: ScriptedServer, run_locust: RunLocust, tmp_path: Path
) -> None:
    """Split over four workers, whatever the number of users: each arrival once, at the rate to within 1 %."""
    out = str(tmp_path / "out")
    run = run_locust(replace(SHORT, target=server.target, rate=40.0, out=out), processes=4)
    assert Counter(record.worker for record in run.records) == dict.fromkeys(range(4), 20)
    assert len({record.id for record in run.records}) == len(run.records)
    assert len(run.records) / SHORT.level_max_s == pytest.approx(40.0, rel=0.01)
    assert offsets(run.records) == pytest.approx(planned(40.0, 2.0), abs=0.02)


def test_a_stalled_server_does_not_stop_arrivals(
    server: ScriptedServer, run_locust: RunLocust, tmp_path: Path
) -> None:
    """While it stands still for a second requests go on coming, and those due meanwhile show the wait."""
    plain, stall = {"first_ms": 5.0}, {"first_ms": 5.0, "stall_ms": 1000.0}
    scripts = [plain] * 60 + [stall] + [plain] * 59
    workload = write_prompts(tmp_path / "stall.jsonl", scripts, max_tokens=2)
    out = str(tmp_path / "out")
    options = replace(SHORT, target=server.target, workload=workload, arrival="constant", out=out)
    run = run_locust(replace(options, rate=40.0, level_max_s=3.0))
    by_number = sorted(run.records, key=lambda record: record.t_int or 0.0)
    assert len(by_number) == 120
    waits = [record.ttft_scheduled_s or 99.0 for record in by_number]
    assert waits[60] > 1.0
    # 25 ms apart, each of those that follow waits for what is left of the second.
    assert all(wait > 0.99 - 0.025 * after for after, wait in enumerate(waits[60:96]))
    delays = sorted(record.dispatch_delay_s or 0.0 for record in by_number[61:96])
    assert (
        delays[17] < 0.25
    )  # of senders that waited for the answer: half of what is left of the second


def test_the_cap_drops_and_counts(
    server: ScriptedServer, run_locust: RunLocust, tmp_path: Path
) -> None:
    """Arrivals beyond the cap are recorded as dropped; the level is over-saturated, and higher rates are left out."""
    stuck = write_prompts(tmp_path / "stuck.jsonl", [{"first_ms": 60_000.0}] * 4, max_tokens=2)
    out = str(tmp_path / "out")
    options = replace(SHORT, target=server.target, workload=stuck, drain_s=0.2, out=out)
    run = run_locust(replace(options, rates=(20.0, 40.0), max_outstanding=25, level_max_s=3.0))
    assert {record.rate for record in run.records} == {20.0}
    ends = Counter((record.status, record.cut) for record in run.records)
    assert ends == {("CANCELLED", True): 25, ("DROPPED", False): 35}
    summary = summarise_level(run.records, 20.0)
    assert summary["client"]["dropped"] == 35
    assert summary["counts"]["failed"] == 0 and summary["counts"]["cut"] == 25
    assert run.failures == 0 and run.requests == 0
    assert "rate 20: 35 arrivals dropped" in run.log and "rate 40: left out" in run.log


def test_conversations_go_on_in_an_open_loop(
    server: ScriptedServer, run_locust: RunLocust, tmp_path: Path
) -> None:
    """First turns come by the schedule; each later one is due a think time after the answer, and counts from then."""
    options = replace(SHORT, target=server.target, rate=15.0, out=str(tmp_path / "out"))
    run = run_locust(replace(options, workload="multi-turn:3", think_s=0.1, level_max_s=4.0))
    talks: dict[str, list[Record]] = {}
    for record in sorted(run.records, key=lambda one: one.t_send):
        talks.setdefault(record.id.partition(".t")[0], []).append(record)
    firsts = [talk[0] for talk in talks.values()]
    assert len(talks) == 60 and {one.kind for one in firsts} == {"turn 1"}
    times = make_schedule("poisson", 15.0, 4.0, SHORT.seed).times
    assert offsets(firsts) == pytest.approx([time - times[0] for time in times], abs=1e-4)
    assert max(len(talk) for talk in talks.values()) == 3, "some go on to their last turn"
    for talk in talks.values():
        for before, after in pairwise(talk):
            pause = think_time(after.id.removeprefix("run-0-"), 0.1, SHORT.seed)
            assert after.t_int == pytest.approx(before.t_end + pause)
            assert after.phase == before.phase and after.rate == 15.0
            assert after.prompt_tokens > before.prompt_tokens
    assert run.requests == len(run.records) and run.failures == 0


def test_run_time_and_rate(server: ScriptedServer, tmp_path: Path) -> None:
    """`--arrival poisson --rate 8 -t 2s` sends for two seconds, drains and ends by itself."""
    options = LoadOptions(
        target=server.target, rate=20.0, out=str(tmp_path), workload="fixed:8:200"
    )
    command = command_line(options, run_time_s=2.0)
    subprocess.run(command, check=True, capture_output=True, timeout=100, env=quiet_environment())
    _, records = read_requests(tmp_path)
    assert len(records) == 40
    assert all(record.ok for record in records)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rate", "0"], "'0' is not a rate above 0"),
        (["--arrival", "ramp:1:2", "--rate", "3"], "has its own rate"),
    ],
)
def test_bad_settings_end_it_with_one_line(arguments: list[str], says: str) -> None:
    """Exit code 2, nothing sent."""
    command = [*command_line(LoadOptions(concurrency=(1,)))[:-2], *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=quiet_environment(), check=False
    )
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(said) == 1 and says in said[0]
    assert done.stdout == ""

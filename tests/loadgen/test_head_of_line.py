"""The trap of gRPC under gevent: fast streams that wait for slow ones to free a thread of the pool."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from loadgen.conftest import RunLocust, ScriptedServer, quiet_environment, scripted_server
from paceline.loadgen.options import LoadOptions

SCRIPT = Path(__file__).with_name("head_of_line.py")


def fast_waits(target: str, how: str) -> list[float]:
    command = [sys.executable, str(SCRIPT), target, how]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=quiet_environment()
    )
    assert done.returncode == 0, done.stderr
    waits: list[float] = json.loads(done.stdout)
    return waits


def test_the_start_up_cures_the_trap(server: ScriptedServer) -> None:
    """Bare, fast streams of 20 ms wait for slow ones of 3 s; as the load generator starts up, none does.

    Should the first half fail one day, gRPC has mended the trap and the cure can go.
    """
    with ThreadPoolExecutor() as both:
        bare, cured = both.map(lambda how: fast_waits(server.target, how), ("bare", "cured"))
    assert max(cured) < 1.5 < max(bare)


def test_a_hundred_users(run_locust: RunLocust, tmp_path: Path) -> None:
    """With 100 users, 90 of them in slow streams, tokens of fast ones are stamped within 5 ms of leaving the server.

    Both sides stamp with the machine's one monotonic clock. Locust's own table counts generations, each once.
    """
    log = tmp_path / "server.jsonl"
    slow = [{"name": f"slow{n}", "first_ms": 2500.0} for n in range(90)]
    fast = [{"name": f"fast{n}", "first_ms": 20.0, "gap_ms": 25.0} for n in range(60)]
    lines = [
        json.dumps({"id": script["name"], "prompt": json.dumps(script), "max_tokens": 6})
        for script in slow + fast
    ]
    workload = tmp_path / "mix.jsonl"
    workload.write_text("\n".join(lines))
    options = LoadOptions(
        workload=str(workload),
        concurrency=(100,),
        out=str(tmp_path / "out"),
        level_warmup=0,
        level_min_s=0.0,
        level_requests=20,
        drain_s=20.0,
    )
    with scripted_server("--log", str(log)) as server:
        run = run_locust(replace(options, target=server.target))
    left_s = {
        line["name"]: line["left_s"] for line in map(json.loads, log.read_text().splitlines())
    }
    later = {f"fast{n}" for n in range(20, 60)}  # after the opening wave of all users at once
    late, gaps = [], []
    for record in run.records:
        name = record.id.removeprefix("run-0-")
        if name in later:
            seen, left = record.arrivals_s, left_s[name]
            late += [there - here for there, here in zip(seen, left, strict=True)]
            gaps += [
                abs((seen[n] - seen[n - 1]) - (left[n] - left[n - 1])) for n in range(1, len(seen))
            ]
    assert len(late) >= 60
    # A machine that others keep busy holds up most messages, whoever reads them: the undisturbed ones count.
    assert min(late) >= 0
    assert statistics.quantiles(late, n=10)[0] < 0.005
    assert statistics.quantiles(gaps, n=10)[0] < 0.005
    assert max(late) < 1.5  # slow streams hold theirs up for 2.5 s
    assert run.requests == len(run.records) and run.failures == 0

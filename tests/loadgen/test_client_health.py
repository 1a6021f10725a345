"""The load generator's own health, from its samples to the verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen.sample_run import sample_data
from paceline.loadgen.client_health import client_figures, client_limits, limit_of, read_health
from paceline.loadgen.summary import build_summary


def sample(t: float, worker: int = 0, **values: Any) -> dict[str, Any]:
    usual = {"cpu_pct": 30.0, "lag_ms": [0.1] * 25, "gc_ms": [], "pool_busy": 2, "pool_max": 64}
    return {"t": t, "worker": worker, "pid": 1} | usual | values


def test_figures_are_those_of_the_worst_process() -> None:
    """CPU adds up over processes; lag, pauses and pool are those of whichever process has the worst."""
    samples = [sample(t) for t in (1.0, 1.5)]
    samples += [sample(t, 1, cpu_pct=60.0, gc_ms=[1.0, 7.5], pool_busy=16) for t in (1.0, 1.5)]
    samples[-1]["lag_ms"] = [0.1] * 24 + [30.0]
    figures = client_figures(samples)
    assert figures["cpu_pct"] == pytest.approx(90.0)
    assert figures["cpu_pct_busiest"] == pytest.approx(60.0)
    assert figures["loop_lag_p99_ms"] == 30.0
    assert figures["gc_pause_max_ms"] == 7.5
    assert figures["pool_busy_share"] == pytest.approx(0.25)
    assert [one["worker"] for one in figures["processes"]] == [0, 1]
    assert figures["processes"][0]["loop_lag_p99_ms"] == 0.1


def test_without_samples_nothing_is_claimed() -> None:
    """No samples, no figures, and no verdict against the load generator."""
    figures = client_figures([])
    assert figures["cpu_pct"] is None and figures["processes"] == []
    assert limit_of({}, figures)["who"] == "unknown"


@pytest.mark.parametrize(
    ("client", "words"),
    [
        ({"cpu_pct": 150.0, "cpu_pct_busiest": 75.0, "loop_lag_p99_ms": 9.0}, []),
        ({"cpu_pct_busiest": 86.0}, ["86 % of a core"]),
        ({"cpu_pct": 97.0, "cpu_pct_busiest": None}, ["97 % of a core"]),
        ({"cpu_pct_busiest": 20.0, "loop_lag_p99_ms": 10.5}, ["late (p99)"]),
        ({"cpu_pct_busiest": 20.0, "dispatch_degraded": True}, ["later than scheduled"]),
    ],
)
def test_what_makes_the_client_the_limit(client: dict[str, Any], words: list[str]) -> None:
    """More than 85 % of a core in one process, a loop more than 10 ms late, or late sends; each is named."""
    reasons = client_limits(client)
    assert len(reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))
    assert limit_of({"busy_share": 0.95}, client)["who"] == ("client" if words else "server")


def test_each_level_has_its_own_verdict() -> None:
    """Only the level during which the load generator was full says so, and the flag at the top names why."""
    data = sample_data(modes=["continuous"], levels=[4, 8], level_s=4.0, baselines=False)
    (mode,) = data.modes
    spans = {level: [r.t_send for r in mode.records if r.level == level] for level in (4, 8)}
    mode.health = [sample(t) for t in _each_half_second(spans[4])]
    mode.health += [sample(t, cpu_pct=99.0) for t in _each_half_second(spans[8])]
    summary = build_summary(data)
    limits = {one["target"]["value"]: one["limit"]["who"] for one in summary["levels"]}
    assert limits == {4: "server", 8: "client"}
    assert summary["verdicts"]["limit"]["who"] == "client"
    flags = [flag["text"] for flag in summary["verdicts"]["flags"]]
    assert any(
        "load generator was the limit" in text and "99 % of a core" in text for text in flags
    )


def _each_half_second(moments: list[float]) -> list[float]:
    begin, end = min(moments), max(moments)
    return [begin + 0.5 * n for n in range(int((end - begin) / 0.5) + 1)]


def test_half_a_line_is_left_out(tmp_path: Path) -> None:
    """A process that was killed while it wrote leaves its whole lines."""
    lines = [json.dumps(sample(2.0)), json.dumps(sample(1.0)), '{"t": 3.0, "wor']
    (tmp_path / "client.0.jsonl").write_text("\n".join(lines))
    assert [one["t"] for one in read_health(tmp_path)] == [1.0, 2.0]


SAMPLING = """
import sys, time
from pathlib import Path
from locust import User
import gc, gevent
from paceline.loadgen.health import HealthSampler
sampler = HealthSampler(Path(sys.argv[1]), 3, clock=time.perf_counter)
sampler.start()
gevent.sleep(0.6)
until = time.perf_counter() + 0.3
while time.perf_counter() < until:  # holds the event loop up
    pass
gc.collect()
gevent.sleep(0.8)
sampler.stop()
sampler.stop()
"""


def test_a_held_up_loop_shows(tmp_path: Path) -> None:
    """A greenlet that computes for 300 ms makes a wake-up at least nearly as late; a collection shows as a pause."""
    subprocess.run([sys.executable, "-c", SAMPLING, str(tmp_path)], check=True, timeout=60)
    samples = read_health(tmp_path)
    assert len(samples) >= 2 and {one["worker"] for one in samples} == {3}
    assert max(lag for one in samples for lag in one["lag_ms"]) > 250
    assert any(pause > 0 for one in samples for pause in one["gc_ms"])
    assert max(one["cpu_pct"] for one in samples) > 5
    assert all(0 <= one["pool_busy"] <= one["pool_max"] for one in samples)

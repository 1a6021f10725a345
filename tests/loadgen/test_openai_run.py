"""Locust against an OpenAI-compatible server, as people run it."""

from __future__ import annotations

import json
from pathlib import Path

from loadgen.conftest import RunLocust
from loadgen.test_openai_wire import openai_server
from paceline.loadgen.client_health import client_figures, read_health
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.statistics import summarise_level


def test_a_sweep_with_late_requests(run_locust: RunLocust, tmp_path: Path) -> None:
    """Levels, records and Locust's table are those of gRPC; what outlasts the drain is cut and no error."""
    scripts = [{"first_ms": 60_000.0}] + [{"first_ms": 10.0, "per_message": 2}] * 200
    lines = [
        json.dumps({"id": f"p{n}", "prompt": json.dumps(script), "max_tokens": 7})
        for n, script in enumerate(scripts)
    ]
    workload = tmp_path / "work.jsonl"
    workload.write_text("\n".join(lines))
    out = tmp_path / "out"
    with openai_server(tmp_path) as served:
        options = LoadOptions(
            target=served.url,
            protocol="openai",
            workload=str(workload),
            concurrency=(2, 4),
            level_min_s=1.2,
            level_max_s=8.0,
            level_requests=8,
            drain_s=0.5,
            out=str(out),
        )
        run = run_locust(options)
    (header,) = run.headers
    assert header["protocol"] == "openai" and header["lengths"]["context_tokens"] == 4096
    for place, level in enumerate((2, 4)):
        records = [record for record in run.records if record.level == level]
        cut = [record for record in records if record.cut]
        assert f"run-{place}-p0" in {record.id for record in cut}  # others where a machine is slow
        assert {record.status for record in cut} == {"CANCELLED"} and len(cut) <= level
        ended = [record for record in records if not record.cut]
        assert all(r.ok and r.tokens == [1, 2, 2, 2] and r.server is None for r in ended)
        summary = summarise_level(records, level)
        assert summary["counts"]["cut"] == len(cut) and summary["counts"]["failed"] == 0
        assert summary["integrity"]["token_mismatch"] == summary["integrity"]["sequence_gaps"] == 0
    assert run.failures == 0
    assert run.requests == sum(not record.cut for record in run.records)
    figures = client_figures(read_health(out))
    assert figures["cpu_pct"] > 0 and figures["loop_lag_p99_ms"] >= 0
    assert [one["worker"] for one in figures["processes"]] == [0]

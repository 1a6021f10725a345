"""Locust as people run it with mixes, probes, conversations and readers who leave, against a scripted server."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from loadgen.conftest import RunLocust, ScriptedServer
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.statistics import summarise_level
from paceline.loadgen.timing import PROBE_KIND
from paceline.loadgen.window import in_flight_steps
from paceline.loadgen.workload import schedule_sha256

SHORT = LoadOptions(level_min_s=0.3, level_max_s=8.0, level_requests=12, drain_s=5.0)


def test_a_mix_with_probes(server: ScriptedServer, run_locust: RunLocust, tmp_path: Path) -> None:
    """Both parts and priorities are sent, probes go beside the load and are counted apart from it."""
    options = replace(
        SHORT,
        target=server.target,
        concurrency=(3, 2),
        out=str(tmp_path / "out"),
        mix="fixed:8:6=0.5,mixed=0.5",
        priorities="0=1,5=1",
        probe=20.0,
        max_tokens_scale=0.5,
        nonce=3,
    )
    run = run_locust(options)
    (header,) = run.headers
    expected = options.make_workload(3, 2048)
    assert header["schedule_sha256"] == schedule_sha256(expected)
    assert header["lengths"]["context_tokens"] == 2048
    assert header["lengths"]["factors"]["mixed"] == {"prompt": 1.0, "output": 0.5, "fit": 1.0}
    for place, level in enumerate(options.concurrency):
        records = [r for r in run.records if r.level == level]
        load = [r for r in records if r.kind != PROBE_KIND]
        probes = [r for r in records if r.kind == PROBE_KIND]
        assert max(flying for _, flying in in_flight_steps(load)) == level
        sent = {r.id: (r.kind, r.priority, r.requested_tokens) for r in load}
        for number in range(len(load)):
            prompt = expected.prompt(number, place)
            asked = (prompt.kind, prompt.priority, prompt.max_tokens)
            assert sent[f"run-{place}-{prompt.id}"] == asked
        assert {r.priority for r in load} == {0, 5}
        assert len(probes) >= 3 and all(r.requested_tokens == 8 for r in probes)
        times = [r.t_int for r in probes if r.t_int is not None]
        assert len(times) == len(probes)
        assert all(abs(b - a - 0.05) < 1e-6 for a, b in pairwise(sorted(times)))
        assert all((r.dispatch_delay_s or 0.0) >= 0 for r in probes)
        summary = summarise_level(records, level)
        assert summary["counts"]["sent"] == len(load)
        assert summary["kinds"][-1]["kind"] == "probe"
    rows = {row["name"]: row["num_requests"] for row in run.rows}
    assert rows["probe"] == sum(r.kind == PROBE_KIND and not r.cut for r in run.records)
    assert run.failures == 0


def test_conversations(server: ScriptedServer, run_locust: RunLocust, tmp_path: Path) -> None:
    """Each user goes through one conversation after the other, turn by turn, with the answers in its prompts."""
    options = replace(SHORT, target=server.target, concurrency=(3,), out=str(tmp_path / "out"))
    run = run_locust(replace(options, workload="multi-turn:3", level_requests=30))
    talks = defaultdict(list)
    for record in run.records:
        stem, _, turn = record.id.partition(".t")
        talks[stem].append((int(turn or 1), record))
    whole = [talk for talk in talks.values() if len(talk) == 3]
    assert sorted(talks) == [f"run-0-multi-turn-{number:05d}" for number in range(len(talks))]
    assert len(whole) >= 8 and len(talks) - len(whole) <= 3
    for talk in whole:
        assert [place for place, _ in talk] == [1, 2, 3]
        for (_, before), (place, record) in pairwise(talk):
            assert record.kind == f"turn {place}" and record.t_send >= before.t_end
            # The scripted server counts words: those of the turn before, its answer's, and new ones.
            assert record.prompt_tokens > before.prompt_tokens + before.output_tokens


def test_leaving_and_missing(
    own_server: ScriptedServer, run_locust: RunLocust, tmp_path: Path
) -> None:
    """Planned cancels and missed deadlines end a level as good ends do: nothing failed, the server knows."""
    late = {"prompt": json.dumps({"first_ms": 60_000.0}), "deadline_s": 0.5}
    leaving = {"prompt": json.dumps({"gap_ms": 5.0}), "max_tokens": 100_000, "cancel_after": 4}
    path = tmp_path / "ends.jsonl"
    path.write_text("\n".join(map(json.dumps, [late, leaving, {"prompt": "{}", "max_tokens": 3}])))
    options = replace(SHORT, target=own_server.target, concurrency=(3,), out=str(tmp_path / "out"))
    run = run_locust(replace(options, workload=str(path), level_min_s=0.0))
    counts = summarise_level(run.records, 3)["counts"]
    by_end = Counter(r.status for r in run.records)
    assert counts["missed_deadline"] == by_end["DEADLINE_EXCEEDED"] >= 3
    assert counts["cancelled_by_plan"] == by_end["CANCELLED"] >= 3
    assert counts["ok"] == by_end["OK"] >= 3
    assert run.failures == counts["failed"] == counts["shed"] == counts["cut"] == 0
    assert run.requests == len(run.records)
    left, late = counts["cancelled_by_plan"], counts["missed_deadline"]
    # On a busy machine a deadline may pass before the call has reached the server.
    assert left < own_server.until_idle().requests_rejected <= left + late

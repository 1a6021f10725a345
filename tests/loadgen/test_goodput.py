"""SLOs and goodput."""

from __future__ import annotations

import pytest

from loadgen.test_statistics import call
from paceline.loadgen.goodput import goodput, wilson95
from paceline.loadgen.slo import PRESETS, Limit, Slo, SloError, parse_slo
from paceline.loadgen.statistics import summarise_level

NOTHING: dict[str, object] = {"stamps_us": [], "tokens": [], "server": None, "output_tokens": 0}
CUT: dict[str, object] = {"cut": True, "status": "CANCELLED", "server": None, "output_tokens": 0}


def test_a_spec_names_metric_percentile_and_limit() -> None:
    """Without a percentile it is p99; presets are MLPerf's limits."""
    found = parse_slo("ttft_p95=450, tpot=40,e2e_p99.9_ms=9000")
    assert found.limits == (
        Limit("ttft", 0.95, 450.0),
        Limit("tpot", 0.99, 40.0),
        Limit("e2e", 99.9 / 100, 9000.0),
    )
    assert [limit.key for limit in found.limits] == ["ttft_p95_ms", "tpot_p99_ms", "e2e_p99.9_ms"]
    preset = parse_slo("llama2-70b-interactive")
    assert (preset.limit_ms("ttft"), preset.limit_ms("tpot")) == (450, 40)
    assert preset.limit_ms("e2e") is None
    assert all(len(slo.limits) == 2 for slo in PRESETS.values())


@pytest.mark.parametrize(
    "text",
    ["", "fast", "ttft=", "ttft=0", "ttft_p0=5", "itl=5", "ttft=1,ttft_p50=2", "ttft=1;e2e=2"],
)
def test_what_is_no_slo_is_refused_in_one_line(text: str) -> None:
    """The message shows how to write one."""
    with pytest.raises(SloError) as error:
        parse_slo(text)
    assert "\n" not in str(error.value)


def test_all_limits_must_be_kept() -> None:
    """TTFT 110 ms, TPOT 95 ms, E2E 1 s: one limit broken makes a miss."""
    one = call(2)
    for text, met in (
        ("ttft=110,tpot=95,e2e=1000", True),
        ("ttft=109,tpot=95", False),
        ("ttft=110,tpot=94", False),
        ("e2e=999", False),
    ):
        assert parse_slo(text).meets(one) is met
    single = call(2, stamps_us=[110_000], tokens=[10])
    assert parse_slo("tpot=1").meets(single)


def test_latencies_count_from_the_schedule_in_an_open_loop() -> None:
    """Half a second lost before the send is lost to the user."""
    late = call(2, t_int=10.5, rate=2.0)
    assert late.t_send == 11.0
    assert parse_slo("ttft=609").meets(late) is False
    assert parse_slo("ttft=611").meets(late) is True


def test_who_is_judged() -> None:
    """Failed is a miss; cut is a miss once it broke a limit; cancelled by the workload is nobody's."""
    slo = parse_slo("ttft=450,tpot=100")
    assert slo.meets(call(2, status="UNAVAILABLE", **NOTHING)) is False
    assert slo.meets(call(2, **CUT)) is None
    assert slo.meets(call(2, **(CUT | NOTHING))) is False  # it waited a second for its first token
    assert slo.meets(call(2, status="CANCELLED", cancelled_by_plan=True)) is None


def test_goodput_of_a_level() -> None:
    """Forty requests in twenty seconds, two slow, one shed, one failed: 36 good."""
    records = [call(i, phase="measure") for i in range(40)]
    records[3] = call(3, phase="measure", stamps_us=[600_000, *[10_000] * 9])
    records[5] = call(5, phase="measure", stamps_us=[700_000, *[10_000] * 9])
    records[7] = call(7, phase="measure", status="RESOURCE_EXHAUSTED", **NOTHING)
    records[9] = call(9, phase="measure", status="UNAVAILABLE", **NOTHING)
    found = goodput(records, 20.0, parse_slo("ttft_p90=450,tpot_p50=100"))
    assert (found["judged"], found["good"]) == (40, 36)
    assert found["attainment"] == pytest.approx(0.9)
    assert found["req_s"] == pytest.approx(1.8)
    assert found["tok_s"] == pytest.approx(18.0)
    assert found["limits_ms"] == {"ttft_p90_ms": 450.0, "tpot_p50_ms": 100.0}
    low, high = found["attainment_ci95"]
    assert 0.76 < low < 0.9 < high < 0.97


def test_a_level_passes_by_its_quantile_with_failures_as_endless() -> None:
    """One failure in ten breaks a p95 and not a p80; two requests tell no p95 at all."""
    records = [call(i, phase="measure") for i in range(20)]
    assert Slo("a", (Limit("ttft", 0.95, 450),)).passes(records) is True
    records[4] = call(4, phase="measure", status="UNAVAILABLE", **NOTHING)
    records[6] = call(6, phase="measure", status="UNAVAILABLE", **NOTHING)
    assert Slo("a", (Limit("ttft", 0.95, 450),)).passes(records) is False
    assert Slo("a", (Limit("ttft", 0.80, 450),)).passes(records) is True
    assert Slo("a", (Limit("ttft", 0.95, 450),)).passes(records[:2]) is None


def test_wilsons_interval_at_the_ends() -> None:
    """All of ten says at least 72 %, none of ten at most 28 %."""
    assert wilson95(10, 10) == pytest.approx([0.7225, 1.0], abs=1e-3)
    assert wilson95(0, 10) == pytest.approx([0.0, 0.2775], abs=1e-3)
    assert wilson95(0, 0) is None


def test_an_open_level_is_known_by_its_rate() -> None:
    """Target, window, latency from schedule and dispatch delay come from the records."""
    records = [
        call(i, rate=4.0, t_int=10.0 + i / 4, t_send=10.004 + i / 4, t_end=11.004 + i / 4)
        for i in range(80)
    ]
    found = summarise_level(records, 4.0)
    assert found["target"] == {"kind": "rate", "value": 4.0}
    assert found["stable"]["verdict"] == "steady"
    assert found["latency"]["ttft_sched_ms"]["median"] == pytest.approx(114.0)
    assert found["latency"]["e2e_sched_ms"]["median"] == pytest.approx(1004.0)
    assert found["client"]["dispatch_ms"]["median"] == pytest.approx(4.0)
    assert found["client"]["dispatch_degraded"] is False
    late = [call(i, rate=4.0, t_int=10.0 + i / 4, t_send=10.1 + i / 4) for i in range(80)]
    assert summarise_level(late, 4.0)["client"]["dispatch_degraded"] is True


def test_an_open_level_that_outruns_the_server_is_unstable() -> None:
    """Each answer takes longer than the one before: requests pile up."""
    records = [
        call(i, rate=4.0, t_int=i / 4, t_send=i / 4, t_end=i / 4 + 0.2 * i) for i in range(80)
    ]
    assert summarise_level(records, 4.0)["stable"]["verdict"] == "unstable"


def test_deadlines_and_planned_cancels_in_goodput() -> None:
    """A missed deadline is a miss; a planned cancel and a probe are judged by nobody."""
    records = [call(i) for i in range(40)]
    records[20] = call(20, status="DEADLINE_EXCEEDED", deadline_s=0.4)
    records[21] = call(21, status="CANCELLED", cancelled_by_plan=True)
    probes = [call(i, id=f"p{i}", kind="probe", t_int=float(i)) for i in range(1, 39)]
    plain, found = (summarise_level(some, 2) for some in (records, records + probes))
    assert found["goodput"] == plain["goodput"] and found["fairness"] == plain["fairness"]
    one = found["goodput"][0]
    assert one["judged"] - one["good"] == 1
    assert one["judged"] == found["counts"]["in_latencies"] - 1
    assert found["target"]["kind"] == "concurrency"

"""What the summary says of an open-loop level."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.loadgen.open_bench import judge, saturation_of
from paceline.loadgen.open_words import flags
from paceline.loadgen.schedule import make_schedule
from paceline.loadgen.slo import parse_slo
from paceline.loadgen.statistics import summarise_level
from paceline.loadgen.timing import DROPPED, Record

START = 1000.0


def call(number: int, t_int: float, t_send: float, service_s: float, rate: float) -> Record:
    """A request that is answered `service_s` after it was sent, all its tokens at once."""
    return Record(
        id=f"r{number}",
        mode="m",
        level=1,
        phase="measure",
        worker=0,
        t_send=t_send,
        t_end=t_send + service_s,
        status="OK",
        stamps_us=[round(service_s * 1e6)],
        tokens=[4],
        output_tokens=4,
        requested_tokens=4,
        t_int=t_int,
        rate=rate,
    )


def open_loop(rate: float, seconds: float, service_s: float) -> list[Record]:
    """Every arrival is sent when it is due."""
    times = make_schedule("constant", rate, seconds, 0).times
    return [call(i, START + t, START + t, service_s, rate) for i, t in enumerate(times)]


def one_at_a_time(rate: float, seconds: float, service_s: float, stall_s: float) -> list[Record]:
    """A sender that waits for each answer, and a server that stands still once, half-way through."""
    found: list[Record] = []
    free = 0.0
    for i, due in enumerate(make_schedule("constant", rate, seconds, 0).times):
        took = service_s + (stall_s if i == int(rate * seconds / 2) else 0.0)
        send = max(START + due, free)
        found.append(call(i, START + due, send, took, rate))
        free = send + took
    return found


def test_coordinated_omission_shows_from_the_schedule_alone() -> None:
    """A server stalls for 1 s: p99 from the schedule says so, p99 from the send hides it."""
    level = summarise_level(one_at_a_time(150, 10.0, 0.004, 1.0), 150)
    assert level["latency"]["ttft_ms"]["p99"] == pytest.approx(4.0, abs=0.1)
    assert level["latency"]["ttft_sched_ms"]["p99"] > 800
    assert level["client"]["dispatch_degraded"]
    assert level["client"]["late"] > 100


def test_an_honest_level_has_nothing_late() -> None:
    """Sent when due: both latencies agree, and nothing is dropped or degraded."""
    level = summarise_level(open_loop(150, 10.0, 0.004), 150)
    assert level["target"] == {"kind": "rate", "value": 150}
    assert level["latency"]["ttft_ms"]["p99"] == level["latency"]["ttft_sched_ms"]["p99"]
    assert level["stable"]["verdict"] == "steady"
    client = level["client"]
    assert (client["arrivals"], client["dropped"], client["late"]) == (1500, 0, 0)
    assert client["dispatch_degraded"] is False
    assert level["throughput"]["req_s"] == pytest.approx(150, rel=0.01)


def test_dropped_arrivals_are_counted_and_are_misses() -> None:
    """They are neither sent nor failed, but no SLO is met by them."""
    records = open_loop(50, 10.0, 0.004)
    lost = [
        replace(record, status=DROPPED, t_end=record.t_send, stamps_us=[], tokens=[])
        for record in records[100:150]
    ]
    records[100:150] = lost
    level = summarise_level(records, 50, slos=[parse_slo("ttft_p99=100")])
    assert level["client"]["dropped"] == 50
    assert level["client"]["arrivals"] == 500
    assert level["counts"]["sent"] == level["counts"]["ok"] == 450
    assert level["counts"]["failed"] == 0
    assert level["goodput"][0]["attainment"] == pytest.approx(0.9)


def test_requests_cut_by_the_end_are_no_errors() -> None:
    """What still ran when the level ended is counted as cut."""
    records = open_loop(50, 10.0, 0.4)
    records[-5:] = [replace(r, status="CANCELLED", cut=True) for r in records[-5:]]
    counts = summarise_level(records, 50)["counts"]
    assert (counts["cut"], counts["failed"], counts["ok"]) == (5, 0, 495)


def test_more_than_can_end_is_not_steady() -> None:
    """Ten a second come and five end: the number in flight grows."""
    records = [replace(r, t_end=START + 2 * (r.t_send - START) + 1) for r in open_loop(10, 20, 0.1)]
    level = summarise_level(records, 10)
    assert level["stable"]["verdict"] == "unstable"
    assert "grew by 5.0 a second" in level["stable"]["reason"]


class TestJudge:
    SLO = parse_slo("ttft_p90=100")

    def test_share_of_requests_decides(self) -> None:
        """At p90 nine of ten must be in time."""
        records = open_loop(50, 10.0, 0.004)
        assert judge(records, self.SLO)["met"]
        slow = [replace(r, stamps_us=[200_000]) for r in records[:60]] + records[60:]
        told = judge(slow, self.SLO)
        assert not told["met"] and told["kept_up"]
        assert told["attainment"] == pytest.approx(0.88)

    def test_a_level_that_piles_up_meets_nothing(self) -> None:
        """However fast its first tokens are."""
        records = [
            replace(r, t_end=START + 2 * (r.t_send - START) + 1) for r in open_loop(10, 20, 0.01)
        ]
        told = judge(records, self.SLO)
        assert told["attainment"] == 1.0
        assert not told["kept_up"] and not told["met"]

    def test_too_few_meet_nothing(self) -> None:
        """A level without requests is a miss, and so is one of four."""
        assert not judge([], self.SLO)["met"]
        assert not judge(open_loop(2, 2.0, 0.004), self.SLO)["met"]
        assert judge(open_loop(4, 2.0, 0.004), self.SLO)["met"]


def test_an_answer_that_rests_on_few_requests_is_doubted() -> None:
    """99 % of twelve requests is no more than all of twelve."""
    tried = {"attainment": 1.0, "attainment_ci95": [0.8, 1.0], "judged": 12, "wanted": 0.99}
    search = {"slo": "ttft_p99=9", "rate": 4.0, "bounded": True}
    search["tried"] = [tried | {"rate": 4.0, "kept_up": True, "met": True}]
    summary = {"levels": [], "run": {"open": {"continuous": {"search": search}}}}
    assert flags(summary) == [
        (
            "warn",
            "The search's answer rests on few requests: 12 at one level, where 99\u00a0% takes 100 to tell",
        )
    ]
    tried["judged"] = 100
    search["tried"] = [tried | {"rate": 4.0, "kept_up": True, "met": True}]
    assert flags(summary) == []


class TestSaturation:
    def test_ends_a_second_with_the_batch_full(self) -> None:
        """Four readers whose requests take 0.2 s: twenty a second."""
        records = [
            replace(call(i, 0, START + 0.2 * (i // 4), 0.2, 1), t_int=None, rate=None)
            for i in range(400)
        ]
        assert saturation_of(records, 4) == pytest.approx(20, rel=0.02)

    def test_tokens_say_it_where_few_ended(self) -> None:
        """Eight streams of a token every 0.1 s, forty tokens each: two requests a second."""
        stream = replace(
            call(0, 0, START, 3.0, 1),
            t_int=None,
            rate=None,
            stamps_us=[100_000] * 30,
            tokens=[1] * 30,
            requested_tokens=40,
            status="CANCELLED",
            cut=True,
        )
        assert saturation_of([stream] * 8, 8) == pytest.approx(2.0, rel=0.05)
        assert saturation_of([], 8) is None

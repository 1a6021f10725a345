"""The live figures: what processes count, merged in one place."""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from paceline.loadgen.histogram import Histogram
from paceline.loadgen.live import Live
from paceline.loadgen.live_figures import ENDS, Figures
from paceline.loadgen.live_series import series
from paceline.loadgen.live_tables import (
    FIGURE_COLUMNS,
    LEVEL_COLUMNS,
    figure_rows,
    level_rows,
    levels_csv,
    requests_csv,
    seconds_csv,
)
from paceline.loadgen.live_tally import Tally
from paceline.loadgen.slo import parse_slo
from paceline.loadgen.timing import Record

SLO = parse_slo("ttft=100,tpot=20")


def record(at: int, ttft_ms: float = 50.0, gap_ms: float = 10.0, **other: object) -> Record:
    """Five tokens in five messages."""
    stamps = [round(ttft_ms * 1e3), *[round(gap_ms * 1e3)] * 4]
    made = Record(
        id=str(at),
        mode="run",
        level=4,
        phase="measure",
        worker=0,
        t_send=float(at),
        t_end=at + sum(stamps) / 1e6,
        status="OK",
        stamps_us=stamps,
        tokens=[1] * 5,
    )
    return replace(made, **other)  # type: ignore[arg-type]


def drawn(count: int) -> list[Record]:
    chance = random.Random(5)
    return [
        record(at, chance.lognormvariate(4, 1), chance.lognormvariate(2, 0.7))
        for at in range(count)
    ]


def wired(messages: object) -> list[dict[str, object]]:
    """As the other process gets them."""
    found: list[dict[str, object]] = json.loads(json.dumps(messages))
    return found


class TestHistogram:
    @pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
    def test_quantiles_are_within_one_per_cent(self, share: float) -> None:
        """Of what the sorted values say."""
        chance = random.Random(1)
        values = sorted(chance.lognormvariate(-2, 1.5) for _ in range(5000))
        histogram = Histogram()
        for value in values:
            histogram.add(value)

        found = histogram.quantile(share)

        assert found == pytest.approx(values[round(share * 5000) - 1], rel=0.0101)

    def test_small_samples_have_no_p99(self) -> None:
        """A hundred values have one, ninety-nine have none; the median always is known."""
        histogram = Histogram()
        histogram.add(0.5, 99)
        assert histogram.quantile(0.99) is None
        histogram.add(0.5)
        assert histogram.quantile(0.99) == pytest.approx(0.5, rel=0.01)
        assert Histogram().quantile(0.5) is None

    def test_sum_of_parts_is_the_whole(self) -> None:
        """Split over three processes and sent as messages, the counts are those of one."""
        whole, merged = Histogram(), Histogram()
        parts = [Histogram() for _ in range(3)]
        for at in range(1000):
            whole.add(at / 100)
            parts[at % 3].add(at / 100)
        for part in parts:
            merged.merge(Histogram.from_message(json.loads(json.dumps(part.to_message()))))

        assert merged == whole


def test_figures_of_two_processes_are_those_of_one() -> None:
    """Records dealt out to two tallies and told in messages give the same figures as in one, token for token."""
    records = [*drawn(400), record(400, status="RESOURCE_EXHAUSTED", stamps_us=[], tokens=[])]
    one, two = Live(0.0), Live(0.0)
    single, left, right = Tally(0.0), Tally(0.0), Tally(0.0)
    for tally in (single, left, right):
        tally.begin(SLO, 0.0)
    for at, each in enumerate(records):
        single.take(each)
        (left, right)[at % 2].take(each)
    single.tick(1.0, in_flight=7, tokens=2000, level="4")
    left.tick(1.0, in_flight=3, tokens=1200, level="4")
    right.tick(1.1, in_flight=4, tokens=800, level="4")

    one.take("local", wired(single.drain(1.2)), 1.2)
    two.take("left", wired(left.drain(1.2)), 1.2)
    two.take("right", wired(right.drain(1.2)), 1.2)

    assert two.levels["4"].figures == one.levels["4"].figures
    assert two.in_flight(1.2) == one.in_flight(1.2) == 7
    assert one.levels["4"].figures.counts["shed"] == 1
    assert one.levels["4"].figures.counts["judged"] == 401


def test_messages_are_small() -> None:
    """A busy second of a hundred requests with twenty thousand tokens tells in under ten kilobytes."""
    tally = Tally(0.0)
    for each in drawn(100):
        tally.take(replace(each, stamps_us=each.stamps_us * 40, tokens=each.tokens * 40))
    tally.tick(1.0, in_flight=100, tokens=20_000, level="100")

    assert len(json.dumps(tally.drain(1.0))) < 10_000


def test_ends_and_goodput() -> None:
    """Each request has one end; shed and failed ones miss the SLO, cut ones are judged by nobody."""
    figures = Figures()
    for each in (
        record(0),
        record(1, ttft_ms=101.0),
        record(2, gap_ms=21.0),
        record(3, status="RESOURCE_EXHAUSTED", stamps_us=[], tokens=[]),
        record(4, status="INTERNAL"),
        record(5, status="CANCELLED", cut=True),
        record(6, status="CANCELLED", cancelled_by_plan=True),
        record(7, status="DEADLINE_EXCEEDED", deadline_s=0.5),
    ):
        figures.take(each, SLO)

    assert [figures.counts[end] for end in ENDS] == [3, 1, 1, 1, 1, 1, 0]
    assert figures.ended == 8
    assert figures.attainment == 1 / 6
    assert figures.latencies["ttft"].count == 3
    assert figures.latencies["itl"].count == 12


def test_probes_are_no_part_of_the_load() -> None:
    """Requests sent beside the load change none of its figures."""
    tally = Tally(0.0)
    tally.take(record(0, kind="probe"))
    tally.tick(1.0, in_flight=0, tokens=0, level="4")

    (second,) = tally.drain(1.0)

    assert Figures.from_message(second["levels"]["4"]).ended == 0


def test_tokens_count_when_they_arrive() -> None:
    """The growth of each second's count is that second's, and goes to the level that sent them."""
    tally, live = Tally(0.0), Live(0.0)
    arrived = [0, 10, 40, 45]
    for at, tokens in enumerate(arrived[1:], start=1):
        tally.tick(float(at), in_flight=1, tokens=tokens, level="1" if at < 2 else "2")
    live.take("local", tally.drain(3.0), 3.0)

    assert [slot.figures.tokens for slot in live.slots.values()] == [
        after - before for before, after in pairwise(arrived)
    ]
    assert live.levels["1"].figures.tokens == 40  # the second in which level 2 began is level 1's
    assert live.levels["2"].figures.tokens == 5
    assert live.tok_s() == 45 / 4  # over the four seconds since the begin


def test_the_master_trusts_no_other_clock() -> None:
    """A worker whose clock is hours away is placed by the age of its seconds."""
    tally, live = Tally(90_000.0), Live(100.0)
    live.begin("", 100.0)
    tally.tick(90_001.0, in_flight=2, tokens=30, level="2")
    tally.tick(90_002.0, in_flight=2, tokens=70, level="2")

    live.take("worker", wired(tally.drain(90_004.5)), 106.5)

    assert [(at, slot.figures.tokens) for at, slot in live.slots.items()] == [(3, 30), (4, 40)]


def test_a_silent_process_is_gone() -> None:
    """Eight seconds after its last word its requests no longer count as in flight."""
    tally, live = Tally(0.0), Live(0.0)
    tally.tick(1.0, in_flight=5, tokens=0, level="5")
    live.take("worker", tally.drain(1.0), 1.0)

    assert live.in_flight(8.9) == 5
    assert live.in_flight(9.1) == 0


def sampled() -> Live:
    """Ten seconds of two processes with a server that tells its load."""
    live, tally = Live(0.0), Tally(0.0)
    tally.begin(SLO, 0.0)
    live.begin(SLO.name, 0.0)
    for at in range(10):
        for each in drawn(20):
            tally.take(each)
        tally.tick(at + 0.9, in_flight=4, tokens=100 * (at + 1), level="4")
        live.take("local", tally.drain(at + 0.9), at + 0.9)
        sample = {"running": 3, "waiting": 1, "pages_used": 10, "pages_total": 40, "preemptions": 0}
        sample |= {"steps": 10 * at, "row_steps": 30 * at, "real_tokens": 60 * at}
        live.sample(sample | {"padded_tokens": 80 * at, "step_rows": 3}, at + 0.9)
    return live


def test_the_tables_show_client_and_server() -> None:
    """Every row has every column as text, the server's figures among them."""
    live = sampled()
    rows = {row["measure"]: row for row in figure_rows(live, 10.0)}

    assert all(set(row) == {"name", *FIGURE_COLUMNS} for row in rows.values())
    assert rows["Output"]["now"] == "100\u00a0tok/s"
    assert rows["In flight"]["now"] == "4"
    assert rows["Ok"]["level"] == "200"
    assert rows["TTFT, median"]["p99"].endswith("ms")
    assert (rows["Server queue"]["now"], rows["Batch rows"]["now"]) == ("1", "3.0")
    assert (rows["KV cache"]["now"], rows["Padding waste"]["now"]) == ("25\u00a0%", "25\u00a0%")
    (level,) = level_rows(live)
    assert set(level) == {"name", *LEVEL_COLUMNS}
    assert level["level"] == "4" and level["requests"] == "200"


def test_the_charts_have_one_value_a_second() -> None:
    """All lines are as long as the time axis, client and server on the same seconds."""
    found = series(sampled(), 10.0, state="running")

    assert found["times"] == list(range(10))
    assert {len(line) for line in found["lines"].values()} == {10}
    assert found["lines"]["tok_s"] == [100.0] * 10
    assert found["lines"]["running"] == [3] * 10
    assert found["lines"]["padding"][-1] == pytest.approx(0.25)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_csv_files_parse() -> None:
    """Each file's lines have the fields its header names, and the numbers that went in."""
    live = sampled()
    levels = list(csv.DictReader(io.StringIO(levels_csv(live))))
    assert [(row["level"], row["ok"], row["tokens"]) for row in levels] == [("4", "200", "1000")]
    seconds = list(csv.DictReader(io.StringIO(seconds_csv(live))))
    assert [row["tokens"] for row in seconds] == ["100"] * 10
    assert {row["server_running"] for row in seconds} == {"3"}
    requests = list(csv.DictReader(io.StringIO(requests_csv([record(0), record(1, cut=True)]))))
    assert [(row["ttft_ms"], row["tpot_ms"], row["end"]) for row in requests] == [
        ("50.0", "10.0", "ok"),
        ("50.0", "10.0", "cut"),
    ]
    assert all(None not in row for row in (*levels, *seconds, *requests))

"""Flags of the open loop, of Locust's side and of the bench."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.test_options import parse as parse_load
from paceline.loadgen.arrivals import ArrivalError
from paceline.loadgen.bench_options import parse
from paceline.loadgen.level_schedules import schedules_of
from paceline.loadgen.open_plan import LOCUST_S, calibration_s, level_count, plan_for
from paceline.loadgen.options import LoadOptions

SLO = "ttft_p99=450,tpot_p99=40"


def test_load_flags_round_trip() -> None:
    """Written as arguments and parsed again they are the same."""
    options = LoadOptions(
        arrival="gamma:0.5",
        rates=(0.5, 2.0),
        max_outstanding=7,
        over_saturation="continue",
        first_level=3,
    )
    assert parse_load(options.to_arguments()) == options
    assert parse_load(["--rate", "8"]).open_rates == (8.0,)
    assert parse_load([]).open_rates == ()
    assert parse_load(["--arrival", "steps:1,2"]).open_rates == (None,)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (LoadOptions(arrival="ramp:1:2", rate=3), "ramp:1:2 has its own rate"),
        (LoadOptions(concurrency=(1,), rate=3), "give either --concurrency"),
    ],
)
def test_settings_that_do_not_fit_together(options: LoadOptions, says: str) -> None:
    """One line says which."""
    with pytest.raises(ArrivalError, match=says):
        _ = options.open_rates


@pytest.mark.parametrize(
    "arguments", [["--rate", "0"], ["--rates", "1,0"], ["--arrival", "poison"]]
)
def test_bad_load_flags(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Rate 0 and unknown arrivals end the command with code 2."""
    with pytest.raises(SystemExit) as stop:
        parse_load(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_time_of_a_run_is_shared_by_its_levels(tmp_path: Path) -> None:
    """--run-time is the sending time of all levels; a trace lasts as long as it is, or less where asked."""
    options = LoadOptions(rates=(1.0, 2.0, 4.0), level_max_s=9.0)
    assert [one.seconds for one in schedules_of(options)] == [9.0] * 3
    assert [one.seconds for one in schedules_of(options, 60.0)] == [20.0] * 3
    trace = tmp_path / "trace"
    trace.write_text("".join(f"{t}\n" for t in range(41)))
    traced = LoadOptions(arrival=f"trace:{trace}")
    (whole,) = schedules_of(traced)
    assert (whole.rate, whole.seconds, len(whole.times)) == (1.0, 41.0, 41)
    assert len(schedules_of(traced, 10.0)[0].times) == 10


def test_a_workload_may_bring_its_arrivals(tmp_path: Path) -> None:
    """Bursts come in bursts unless other arrivals are asked for; a file of requests is a trace of its own times."""
    assert LoadOptions(workload="burst", rate=2.0).arrivals == "gamma:0.25"
    assert LoadOptions(workload="burst", arrival="constant").arrivals == "constant"
    assert LoadOptions(mix="burst=0.9,code=0.1").arrivals == "gamma:0.25"
    assert LoadOptions().arrivals == "poisson" and LoadOptions(workload="burst").open_rates == ()
    opened = parse(["--workload", "burst", "--rates", "2"]).open
    assert opened is not None and opened.arrival == "gamma:0.25"
    file = tmp_path / "requests.jsonl"
    file.write_text("".join(f'{{"prompt": "a", "at": {at}}}\n' for at in (0, 0.5, 2)))
    (own,) = schedules_of(LoadOptions(workload=str(file), arrival=f"trace:{file}"))
    assert own.times == (0.0, 0.5, 2.0)


def test_bench_flags() -> None:
    """Rates or arrivals make an open loop, by default of continuous batching alone and without baselines."""
    options = parse(["--rates", "4,1", "--arrival", "gamma:0.3"])
    assert options.open is not None
    assert options.open.rates == (4.0, 1.0) and options.open.arrival == "gamma:0.3"
    assert options.modes == ("continuous",) and not options.baselines
    assert parse([]).open is None and len(parse([]).modes) == 4
    auto = parse(["--rates", "auto"]).open
    assert auto is not None and auto.rates == () and auto.calibrated
    search = parse(["--search", "--slo", SLO]).open
    assert search is not None and search.search and search.calibrated
    own = parse(["--arrival", "ramp:1:9"]).open
    assert own is not None and not own.calibrated


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rates", "0"], "'0' is not a rate above 0"),
        (["--rates", ""], "name at least one rate"),
        (["--arrival", "poison"], "'poison' are no arrivals"),
        (["--search"], "--search needs an SLO to meet"),
        (["--search", "--slo", SLO, "--rates", "1"], "give either --rates or --search"),
        (["--rates", "1", "--concurrency", "2"], "give either --concurrency"),
        (["--arrival", "ramp:1:2", "--rates", "auto"], "ramp:1:2 has its own rate"),
        (["--rates", "1", "--over-saturation", "maybe"], "'maybe' is neither stop nor continue"),
    ],
)
def test_bad_bench_flags(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    with pytest.raises(SystemExit) as stop:
        parse(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("paceline bench: ") and says in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rates", "auto"],
        ["--rates", "auto", "--quick"],
        ["--rates", "1,2,4"],
        ["--search", "--slo", SLO],
        ["--search", "--slo", SLO, "--quick"],
        ["--arrival", "ramp:1:9"],
    ],
)
def test_the_plan_keeps_the_budget(arguments: list[str]) -> None:
    """Calibration, levels with their drains and starts fit: under five minutes, in a hurry under two."""
    options = parse(arguments)
    plan, levels = plan_for(options), level_count(options)
    assert options.open is not None
    starts = LOCUST_S * (levels if options.open.search else 1)
    spent = calibration_s(options) + starts + levels * (plan.level_max_s + plan.drain_s)
    assert spent < options.budget_s <= (120 if options.quick else 300)
    assert plan.level_max_s > 4
    assert plan_for(options, spent_s=options.budget_s).level_max_s > 1  # late, but not never


def test_a_closed_bench_has_its_old_plan() -> None:
    """Nothing changes where no rate is given."""
    options = parse(["--concurrency", "1,4"])
    assert level_count(options) == 2 and calibration_s(options) == 0.0
    assert plan_for(options).level_requests == 150

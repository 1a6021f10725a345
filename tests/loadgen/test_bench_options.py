from __future__ import annotations

import pytest

from paceline.loadgen.baseline_runs import baseline_command
from paceline.loadgen.bench_cli import main
from paceline.loadgen.bench_options import parse
from paceline.loadgen.bench_plan import load_options, make_plan
from paceline.loadgen.servers import serve_command


@pytest.mark.parametrize(
    ("argv", "limit_s"),
    [
        ([], 600),
        (["--quick"], 120),
        (["--workload", "notebook"], 600),
        (["--budget-s", "240"], 241),
    ],
)
def test_the_plan_keeps_within_the_time(argv: list[str], limit_s: float) -> None:
    """Starts, levels, drains, baselines and the report together."""
    options = parse(argv)
    plan = make_plan(options)
    assert plan.expected_s(len(options.modes), len(options.concurrency)) <= limit_s
    assert plan.level_min_s <= plan.level_max_s


def test_defaults() -> None:
    """All modes, six levels, both baselines; fewer levels when quick, the notebook's own for the notebook."""
    usual, quick, notebook = parse([]), parse(["--quick"]), parse(["--workload", "notebook"])
    assert usual.concurrency == (1, 2, 4, 8, 16, 32)
    assert usual.modes == ("sequential", "static", "dynamic", "continuous")
    assert usual.baselines
    assert quick.concurrency == (1, 4, 8)
    assert notebook.concurrency == (1, 2, 4, 8)
    assert make_plan(notebook).baseline_requests == 8
    assert make_plan(notebook).tokens_scale == 1.0
    assert not parse(["--target", "host:1"]).baselines
    assert parse(["--target", "host:1", "--baselines"]).baselines


def test_levels_and_modes_are_put_in_order() -> None:
    """Whatever the order and repetitions on the command line."""
    options = parse(["--concurrency", "8,1,8", "--modes", "continuous,sequential"])
    assert options.concurrency == (1, 8)
    assert options.modes == ("sequential", "continuous")


def test_server_and_baselines_get_the_same_model() -> None:
    """Model settings go to both, serve arguments to the server alone."""
    argv = ["--model", "gpt2", "--dtype", "float32", "--serve-arg=--page-size", "--serve-arg=32"]
    options = parse(argv)
    model = ["--model", "gpt2", "--dtype", "float32"]
    serve = serve_command(options, "static", 5000)
    assert serve[-2:] == ["--page-size", "32"]
    assert " ".join(model) in " ".join(serve)
    plan = make_plan(options)
    assert baseline_command(options, plan, options.out)[-4:] == model


def test_who_asks_reaches_the_load_generator() -> None:
    """Mix, priorities, deadline, cancels, probes and lengths go to Locust as they were given."""
    given = ["--mix", "chat=0.8,code=0.2", "--priorities", "0=0.9,5=0.1", "--deadline", "3.5"]
    given += ["--cancel-share", "0.25", "--probe", "2.0", "--length-scale", "0.5"]
    options = parse(given)
    plan = make_plan(options)
    load = load_options(options, plan, target="t:1", mode="static", out=options.out, nonce=7)
    assert options.work_name == "chat=0.8,code=0.2"
    assert plan.tokens_scale == 1.0  # told lengths are not shortened
    arguments = load.to_arguments()
    for flag, value in zip(given[::2], given[1::2], strict=True):
        assert arguments[arguments.index(flag) + 1] == value


def test_one_at_a_time_is_measured_from_its_first_requests() -> None:
    """Its opening wave alone would outlast a level of 32."""
    options = parse([])
    plan = make_plan(options)
    out = options.out
    sequential = load_options(options, plan, target="t:1", mode="sequential", out=out, nonce=7)
    continuous = load_options(options, plan, target="t:1", mode="continuous", out=out, nonce=7)
    assert sequential.warmup_requests(32) == 1
    assert continuous.warmup_requests(32) == 32


@pytest.mark.parametrize(
    "argv",
    [
        ["--concurrency", "0"],
        ["--concurrency", "a,b"],
        ["--modes", "parallel"],
        ["--modes", ","],
        ["--workload", "no-such-file"],
        ["--target", "nowhere"],
        ["--target", "host:0"],
        ["--budget-s", "nan"],
        ["--budget-s", "1"],
        ["--seed", "x"],
        ["--mix", "chat"],
        ["--mix", "chat=1,no-such-file=1"],
        ["--mix", "chat=1,chat=2"],
        ["--priorities", "low=1"],
        ["--cancel-share", "1.5"],
        ["--deadline", "-1"],
        ["--probe", "nan"],
        ["--length-scale", "x"],
        ["--surprise"],
        ["extra"],
    ],
)
def test_bad_values_are_one_line_and_exit_code_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started or written."""
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("paceline bench: ")
    assert printed.err.count("\n") == 1


def test_slos_are_checked_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """Presets and own limits may be given together; without any, MLPerf's two for chat."""
    own = parse(["--slo", "ttft_p99=450,tpot_p99=40", "--slo", "mixtral-8x7b-server"])
    assert own.slo == ("ttft_p99=450,tpot_p99=40", "mixtral-8x7b-server")
    assert parse([]).slo == ("llama2-70b-server", "llama2-70b-interactive")
    with pytest.raises(SystemExit) as stop:
        parse(["--slo", "quick"])
    assert stop.value.code == 2 and "'quick' is no SLO" in capsys.readouterr().err

"""The settings of a load run and the command that carries them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from paceline.loadgen.command import command_line
from paceline.loadgen.option_checks import concurrency_list
from paceline.loadgen.options import LoadOptions, add_arguments, check_form


class Parser(argparse.ArgumentParser):
    """Takes the keyword that Locust's own parser adds."""

    def add_argument(self, *names: Any, include_in_web_ui: bool = True, **how: Any) -> Any:
        return super().add_argument(*names, **how)


def parse(arguments: list[str]) -> LoadOptions:
    parser = Parser()
    add_arguments(parser)
    return LoadOptions.from_namespace(parser.parse_args(arguments))


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(),
        LoadOptions(
            target="127.0.0.1:7",
            workload="fixed:8:9",
            seed=3,
            concurrency=(1, 2, 16),
            level_min_s=0.5,
            level_requests=0,
            level_warmup=7,
            max_tokens_scale=0.25,
            channels=1,
            label="static",
            mix="chat=1,code=3",
            priorities="0=1,-5=2",
            deadline=2.5,
            cancel_share=0.5,
            probe=4.0,
            length_scale=0.1,
        ),
    ],
)
def test_arguments_round_trip(options: LoadOptions) -> None:
    """Settings written as arguments and parsed again are the same; defaults need no argument."""
    assert parse(options.to_arguments()) == options
    assert LoadOptions().to_arguments() == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--concurrency", "1,zero"], "not a list like 1,2,4"),
        (["--concurrency", "0"], "at least 1"),
        (["--level-max-s", "nan"], "not a number of at least"),
        (["--channels", "0"], "not a number of at least"),
    ],
)
def test_bad_values(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad value is refused in one line that names its flag, with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        parse(arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert arguments[0] in last and complaint in last


def test_command_line() -> None:
    """The command runs Locust headless on the installed locustfile, with the settings at its end."""
    options = LoadOptions(target="127.0.0.1:7", concurrency=(1, 2))
    command = command_line(options, processes=2, master_port=6001)
    assert command[:4] == [sys.executable, "-m", "locust", "-f"]
    assert Path(command[4]).is_file()
    assert command[command.index("--processes") + 1] == "2"
    assert command[-4:] == ["--target", "127.0.0.1:7", "--concurrency", "1,2"]


def test_command_line_needs_levels_or_users() -> None:
    """Neither or both of levels and users is a mistake of the caller."""
    with pytest.raises(ValueError, match="either"):
        command_line(LoadOptions())
    with pytest.raises(ValueError, match="either"):
        command_line(LoadOptions(concurrency=(1,)), users=2)


def test_addresses() -> None:
    """The target wins over Locust's host, whose scheme is dropped; without both it is the local server."""
    assert LoadOptions(target="a:1").address("b:2") == "a:1"
    assert LoadOptions().address("http://b:2/") == "b:2"
    assert LoadOptions().address(None) == "127.0.0.1:50051"


def test_concurrency_lists() -> None:
    """Text and lists are read alike; anything but positive numbers is refused."""
    assert concurrency_list("1, 2,4") == concurrency_list([1, 2, 4]) == (1, 2, 4)
    assert concurrency_list("") == concurrency_list([]) == ()
    for bad in ("1,x", "0", "2,-1"):
        with pytest.raises(argparse.ArgumentTypeError):
            concurrency_list(bad)


def test_warmup_is_the_opening_wave() -> None:
    """Unless told otherwise the first request of each user is warm-up."""
    assert LoadOptions().warmup_requests(8) == 8
    assert LoadOptions(level_warmup=3).warmup_requests(8) == 3
    assert LoadOptions(level_warmup=0).warmup_requests(8) == 0


def test_a_form_may_leave_the_rate_at_zero() -> None:
    """The web UI's form sends 0 for a closed loop; a negative rate and unknown arrivals name their field."""
    assert check_form({"rate": "0", "arrival": "", "user_count": "3"}) is None
    assert check_form({"rate": "2.5", "arrival": "gamma:0.5"}) is None
    assert (check_form({"rate": "-1"}) or "").startswith("rate: ")
    assert (check_form({"arrival": "poison"}) or "").startswith("arrival: ")

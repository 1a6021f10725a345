"""The mock that measures clients."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from paceline.client import Client
from paceline.server.mock_loader import Pace
from paceline.server.step import Step


class Sleeper:
    """A clock that only sleeping moves, and that oversleeps."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.late_s = late_s

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds + self.late_s


def begun(pace: Pace, sleeper: Sleeper, steps: int) -> list[float]:
    """When each of so many steps began."""
    step = object.__new__(Step)  # the pace does not look at it
    moments = []
    for _ in range(steps):
        pace(step)
        moments.append(sleeper.now_s)
    return moments


def test_steps_begin_at_their_pace() -> None:
    """Steps begin a period apart, and sleeps that run over do not add up."""
    exact, late = Sleeper(), Sleeper(late_s=0.002)
    assert begun(Pace(0.02, exact.clock, exact.sleep), exact, 4) == pytest.approx(
        [0.0, 0.02, 0.04, 0.06]
    )
    assert begun(Pace(0.02, late.clock, late.sleep), late, 4) == pytest.approx(
        [0.0, 0.022, 0.042, 0.062]
    )


def test_a_late_step_is_not_made_up_for() -> None:
    """After a stall the pace goes on from there: no burst of steps follows."""
    sleeper = Sleeper()
    pace = Pace(0.02, sleeper.clock, sleeper.sleep)
    begun(pace, sleeper, 1)
    sleeper.now_s = 1.0
    assert begun(pace, sleeper, 3) == pytest.approx([1.0, 1.02, 1.04])


def test_the_mock_serves_without_torch() -> None:
    """`paceline serve --mock` streams as many tokens as asked, in a process that never loads torch."""
    code = (
        "import sys\n"
        "from paceline.server.cli import main_serve\n"
        "flags = '--mock --mock-tokens-per-s 0 --port 0 --metrics-port none --log-level error'\n"
        "code = main_serve(flags.split())\n"
        "print('torch' in sys.modules)\n"
        "sys.exit(code)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            found = re.search(r" serves mock on (\S+) ", child.stdout.readline())
            assert found is not None
            with Client(found[1]) as client:
                deltas = list(client.stream("hello", max_tokens=50, ignore_eos=True))
            assert sum(delta.num_tokens for delta in deltas) == 50
        finally:
            child.terminate()
            printed, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert printed.splitlines()[-1] == "False"

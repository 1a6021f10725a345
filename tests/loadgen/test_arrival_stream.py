"""What becomes of arrivals whose level ends before this process has come to them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.conftest import ScriptedServer
from paceline.loadgen.arrival_stream import ArrivalStream
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.recorder import read_requests
from paceline.loadgen.session import Session
from paceline.loadgen.stage import Stage

RATE, SECONDS = 10.0, 4.0


@pytest.fixture
def session(server: ScriptedServer, tmp_path: Path) -> Iterator[Session]:
    options = LoadOptions(
        target=server.target, workload="fixed:8:6", rates=(RATE,), out=str(tmp_path)
    )
    made = Session(0)
    made.begin(options, None, Stage(index=-1, rate=RATE))
    yield made
    made.close()


def open_and_close(session: Session, begun_s: float) -> None:
    """A level that began so many seconds ago, and that ends before any sender of this process has its turn."""
    stage = Stage(
        open=True, rate=RATE, seconds=SECONDS, warmup=6, start_wall_s=time.time() - begun_s
    )
    arrivals = ArrivalStream(session, lambda *_: pytest.fail("one was sent"))
    for each in (stage, replace(stage, open=False)):
        session.enter(each)
        arrivals.enter(each)
    session.flush()


def test_what_was_due_and_not_sent_is_dropped(session: Session, tmp_path: Path) -> None:
    """Every arrival of a level that a late process slept through is recorded where it was due, and told of."""
    open_and_close(session, begun_s=100.0)
    _, records = read_requests(tmp_path)
    assert len(records) == RATE * SECONDS == session.progress().dropped
    assert all(record.dropped and record.t_send == record.t_int for record in records)
    assert [record.phase for record in records].count("warmup") == 6


def test_what_was_not_due_yet_is_no_miss(session: Session, tmp_path: Path) -> None:
    """A run that is ended from outside leaves the rest of its schedule out."""
    open_and_close(session, begun_s=-100.0)
    assert read_requests(tmp_path)[1] == [] and session.progress().dropped == 0

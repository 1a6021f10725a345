"""Closed loops made of a run's own requests, drawn again: two of them differ by chance alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paceline.loadgen.compared_run import ComparedRun, parts_of
from paceline.loadgen.run_folder import RunFolder
from paceline.loadgen.timing import Record

LENGTH_S = 30.0


def resampled(
    records: Sequence[Record], level: int, seed: int, *, slower: float = 1.0
) -> list[Record]:
    """Half a minute of `level` users, each sending drawn requests one after the other, all times times `slower`."""
    draw = random.Random(seed)
    pool = [record for record in records if record.ok and record.measured]
    made = []
    for _user in range(level):
        now = draw.random() * 0.5
        first = True
        while now < LENGTH_S:
            one = draw.choice(pool)
            end = now + slower * one.e2e_s
            stamps = [round(slower * stamp) for stamp in one.stamps_us]
            phase = "warmup" if first else "measure"
            moved = {"t_send": now, "t_end": end, "stamps_us": stamps, "phase": phase}
            made.append(replace(one, level=level, **moved))  # type: ignore[arg-type]  # by keyword
            now, first = end + 0.0005, False
    return made


def as_run(name: str, summary: dict[str, Any], records: Sequence[Record]) -> ComparedRun:
    """Those requests as a run with that summary's fingerprint and clients."""
    return ComparedRun(name, summary, parts_of(records))


def write_run(folder: Path, summary: dict[str, Any], records: Sequence[Record]) -> Path:
    """The run's folder as the bench leaves it; its path."""
    made = RunFolder(folder, "chat")
    made.write_requests(record.to_json() for record in records)
    made.write_report(summary)
    return made.path

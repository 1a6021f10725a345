"""The table of what was measured several times: medians, intervals and the noise floor. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.loadgen.systems import system
from paceline.loadgen.tables import Row, Table
from paceline.loadgen.units import heading, size
from paceline.loadgen.verdicts import levels_of, modes_of
from paceline.loadgen.wording import NONE, SPACE, milliseconds, number, rate

Summary = Mapping[str, Any]
NAMES = {
    "output_tok_s": ("Output tok/s", rate),
    "ttft_ms": ("TTFT p50", milliseconds),
    "tpot_ms": ("TPOT p50", milliseconds),
    "e2e_ms": ("E2E p50", milliseconds),
    "goodput_req_s": ("Goodput req/s", lambda value: number(value, 2)),
}


def repeats_table(summary: Summary) -> Table:
    """A row per level and figure over all repeats; no rows where everything was measured once."""
    rows = []
    for mode in modes_of(summary):
        for level in levels_of(summary, mode):
            repeats = level["repeats"]
            for at, (key, (name, write)) in enumerate(NAMES.items() if repeats else ()):
                one = repeats["figures"][key]
                between = one["mean_ci95"]
                cells = (
                    system(mode).label,
                    size(level),
                    name,
                    str(repeats["n"]),
                    write(one["median"]),
                    write(one["mean"]),
                    f"{write(between[0])} to {write(between[1])}" if between else NONE,
                    _share(one["cv"]),
                    _share(one["noise_floor"]),
                )
                rows.append(Row(mode, cells, at == 0))
    headings: tuple[str, ...] = ("Mode", heading(summary), "Figure", "Repeats", "Median", "Mean")
    return Table((*headings, "95 % interval", "Variation", "Noise floor"), tuple(rows))


def _share(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}{SPACE}%"

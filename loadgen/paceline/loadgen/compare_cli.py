"""`paceline compare`: whether one run is faster than another, or nobody can tell."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.loadgen.compare_page import compare_page
from paceline.loadgen.compare_tables import headline, markdown_comparison
from paceline.loadgen.compared_run import RunUnreadable, load_run
from paceline.loadgen.comparison import SLOWER, compare_runs
from paceline.loadgen.slo import DEFAULT, EXAMPLE, SloError, parse_slo

FINE, REGRESSION, NO_VERDICT = 0, 1, 2


def main(argv: list[str]) -> int:
    """Prints the comparison. 0: fine; 1: slower, with --gate; 2: no verdict, or bad usage."""
    try:
        given = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        base, new = ([load_run(path) for path in side] for side in (given.base, given.new))
        slo = given.slo or parse_slo((base[0].summary["run"].get("slo") or DEFAULT)[0])
        found = compare_runs(base, new, slo=slo, threshold=given.threshold / 100, seed=given.seed)
        if found["differing"] and not given.force:
            return _refuse(found)
        sys.stdout.write(markdown_comparison(found))
        if given.out:
            _write(given.out, found)
    except (RunUnreadable, OSError) as error:
        return _complain(str(error))
    return exit_code(found, gate=given.gate)


def exit_code(found: Mapping[str, Any], *, gate: bool) -> int:
    """Without `gate` only what cannot be judged at all is no success; with it, a refused level is none either."""
    if found["differing"] or not any(row["verdict"] for row in found["rows"]):
        return NO_VERDICT
    if not gate:
        return FINE
    if found["verdict"] == SLOWER:
        return REGRESSION
    return NO_VERDICT if found["refused"] else FINE


def _refuse(found: Mapping[str, Any]) -> int:
    parts = [f"{one['name']} ({one['base']} and {one['new']})" for one in found["differing"]]
    return _complain(f"the runs differ in {', '.join(parts)}; --force compares without a verdict")


def _write(folder: Path, found: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "compare.json").write_text(text + "\n", encoding="utf-8")
    (folder / "compare.md").write_text(markdown_comparison(found), encoding="utf-8")
    (folder / "compare.html").write_text(compare_page(found), encoding="utf-8")
    sys.stderr.write(f"{headline(found)} Page: {folder / 'compare.html'}\n")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> None:  # type: ignore[override]  # it does not return either way
        self.exit(NO_VERDICT, f"paceline compare: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="paceline compare", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    what = "a run's folder or its summary.json; several runs of the same, joined by commas, are repeats"
    add("base", type=_paths, metavar="BASE", help=what)
    add("new", type=_paths, metavar="NEW", help="the run to judge, likewise")
    add("--gate", action="store_true", help="exit with 1 where the new run is slower")
    add(
        "--threshold",
        type=_percent,
        default=5.0,
        metavar="%",
        help="differences up to so many per cent do not count (default: 5)",
    )
    add("--slo", type=_slo, help=f"what goodput is counted under: {EXAMPLE} or a preset")
    add("--force", action="store_true", help="compare runs that differ, without a verdict")
    add("--out", type=Path, metavar="FOLDER", help="write compare.md, .html and .json there")
    add("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    return parser


def _paths(text: str) -> list[Path]:
    paths = [Path(part) for part in text.split(",") if part]
    if not paths:
        raise argparse.ArgumentTypeError("name at least one run")
    return paths


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of per cent from 0 to 1000")
    return value


def _slo(text: str) -> Any:
    try:
        return parse_slo(text)
    except SloError as error:
        raise argparse.ArgumentTypeError(str(error).replace("%", "%%")) from error


def _complain(line: str) -> int:
    sys.stderr.write(f"paceline compare: {line}\n")
    return NO_VERDICT

"""A comparison in words and tables, for the terminal, Markdown and the page. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.loadgen.systems import system
from paceline.loadgen.tables import Row, Table
from paceline.loadgen.wording import NONE, SPACE, milliseconds, number, rate

Comparison = Mapping[str, Any]
FEW = "n too small"


def headline(found: Comparison) -> str:
    """The verdict in one sentence, and what it rests on."""
    if found["differing"]:
        return "No verdict: the two runs did not measure the same thing."
    if not found["rows"]:
        return "No verdict: there is no level that both runs measured and that can be compared."
    judged = [row for row in found["rows"] if row["verdict"]]
    faster, slower = (
        sum(row["verdict"] == word for row in judged) for word in ("faster", "slower")
    )
    if not faster and not slower:
        return (
            f"Cannot tell the two apart: none of {len(judged)} figures differs by more than noise."
        )
    parts = [f"{count} {word}" for count, word in ((slower, "slower"), (faster, "faster")) if count]
    start = f"{'Slower' if slower else 'Faster'}: {' and '.join(parts)} of {len(judged)} figures"
    rest = len(judged) - faster - slower
    return f"{start}{'; the others differ by no more than noise' if rest else ''}."


def notes(found: Comparison) -> list[str]:
    """What was left out, and why."""
    lines = [
        f"{one['name']} differs: {_short(one['base'])} in the base, {_short(one['new'])} in the new run"
        for one in found["differing"]
    ]
    lines += [f"{_level(one)} was not compared: {one['reason']}" for one in found["refused"]]
    lines += [f"{_level(one)} is in one of the runs only" for one in found["missing"]]
    unknown = sum(row["verdict"] is None for row in found["rows"])
    if unknown:
        lines.append(
            f"{unknown} figures have too few requests to be stated (a percentile needs n (1 - q) >= 10)"
        )
    return lines


def _short(value: Any) -> str:
    text = NONE if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _level(one: Mapping[str, Any]) -> str:
    return f"{system(one['mode']).label} at {one['label']}"


def comparison_table(found: Comparison) -> Table:
    """One row per level and figure: both values, difference with its interval, noise floor, verdict."""
    rows, before = [], None
    for row in found["rows"]:
        place = (row["mode"], row["value"])
        verdict = row["verdict"] or FEW
        if found["differing"] and row["verdict"]:
            verdict = NONE
        cells = (
            system(row["mode"]).label,
            row["label"],
            row["name"],
            figure(row, "base"),
            figure(row, "new"),
            change(row["change"]),
            interval(row),
            _floor(row),
            f"**{verdict}**" if verdict in ("faster", "slower") else verdict,
        )
        rows.append(Row(row["mode"], cells, place != before))
        before = place
    headings = ("System", "Level", "Figure", "Base", "New", "Difference", "95 % interval")
    return Table((*headings, "Noise floor", "Verdict"), tuple(rows))


def figure(row: Mapping[str, Any], side: str) -> str:
    """One side's figure in its unit."""
    value = row[side]
    if row["measure"].startswith(("ttft", "tpot")):
        return milliseconds(value)
    return rate(value) if row["measure"] == "output_tok_s" else number(value, 2)


def change(value: float | None) -> str:
    """A relative difference, signed: +3.4 %."""
    return NONE if value is None else f"{100 * value:+.1f}{SPACE}%"


def interval(row: Mapping[str, Any]) -> str:
    """The difference's interval."""
    found = row["change_ci95"]
    return f"{change(found[0])} to {change(found[1])}" if found else NONE


def _floor(row: Mapping[str, Any]) -> str:
    if row["noise_floor"] is None:
        return NONE
    return f"±{100 * row['noise_floor']:.1f}{SPACE}% ({row['floor_from']})"


def markdown_comparison(found: Comparison) -> str:
    """The whole comparison as Markdown."""
    names = f"Base: {', '.join(found['base'])}. New: {', '.join(found['new'])}."
    rules = f"A figure counts as different if it moved by more than {100 * found['threshold']:g} % and by more than"
    rules += (
        " the noise floor, and if its interval, at 95 % for all figures together, leaves out zero."
    )
    rules += f" Goodput under {found['slo']}."
    parts = ["# Paceline compare", f"**{headline(found)}**", names]
    parts.append("\n".join(f"- {note}" for note in notes(found)))
    if found["rows"]:
        parts.append(comparison_table(found).markdown())
    return "\n\n".join(part for part in [*parts, rules] if part) + "\n"

"""What tables are made of: looking results up, and writing numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Result = dict[str, Any]


def unit_of(results: Result, name: str) -> Result | None:
    found: Result | None = results["units"].get(name, {}).get("result")
    return found


def units_of(results: Result, prefix: str) -> dict[str, Result]:
    return {
        name.removeprefix(prefix): unit["result"]
        for name, unit in results["units"].items()
        if name.startswith(prefix) and "result" in unit
    }


def cases_of(results: Result, name: str) -> list[Result]:
    cases = (unit_of(results, name) or {"cases": []})["cases"]
    return [case for case in cases if "error" not in case]


def span(peer: Result | None, key: str) -> str:
    if peer is None:
        return ""
    low, high = peer[key]
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def rate(value: float) -> str:
    return f"{value:,.0f}"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def narrowed(lines: Iterable[str], columns: int) -> Iterator[str]:
    """The lines, tables among them without their last columns."""
    for line in lines:
        if columns and line.startswith("|"):
            yield "|".join(line.split("|")[: -columns - 1]) + "|"
        else:
            yield line

"""Numbers as the report prints them. A missing value is an en dash, never a zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NONE = "–"
SPACE = "\u00a0"  # between a number and its unit no line may break
UPPER = ("p99", "p95", "p90", "max")


def number(value: float | None, digits: int = 0) -> str:
    """A plain number with thin grouping: 1,234."""
    return NONE if value is None else f"{value:,.{digits}f}"


def rate(value: float | None) -> str:
    """Tokens a second: whole numbers from 20 on."""
    return number(value, 0 if value is not None and value >= 20 else 1)


def milliseconds(value: float | None) -> str:
    """A duration given in milliseconds, in the unit that reads best."""
    if value is None:
        return NONE
    if value >= 1000:
        return f"{value / 1000:.1f}{SPACE}s" if value < 100_000 else f"{value / 1000:,.0f}{SPACE}s"
    return f"{value:.0f}{SPACE}ms" if value >= 10 else f"{value:.1f}{SPACE}ms"


def seconds(value: float | None) -> str:
    """A duration given in seconds."""
    return milliseconds(None if value is None else value * 1000)


def percent(share: float | None) -> str:
    """A share of 1 as per cent."""
    return NONE if share is None else f"{max(share, 0.0) * 100:.0f}{SPACE}%"


def ratio(value: float | None) -> str:
    """A factor: 3.4×, 12×."""
    if value is None:
        return NONE
    return f"{value:.1f}×" if value < 99.5 else f"{value:.0f}×"


def upper(distribution: Mapping[str, Any]) -> tuple[str, float | None]:
    """(name, value) of the highest percentile the sample supports, or its maximum."""
    for name in UPPER:
        if distribution.get(name) is not None:
            return name, distribution[name]
    return "max", None


def listing(parts: list[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

"""A file of arrival times: a number of seconds on each line, or a JSON object with a field for the time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

FIELDS = ("t", "time", "time_s", "timestamp", "arrival", "arrival_s", "t_int", "at")


def read_trace(path: str) -> tuple[float, ...]:
    """Seconds from the first arrival, ascending. Raises OSError, and ValueError that names the bad line."""
    times: list[float] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        time = _time(number, line)
        if times and time < times[-1]:
            raise ValueError(f"line {number}: {time:g} comes after {times[-1]:g}: sort the times")
        times.append(time)
    if not times:
        raise ValueError("no times in it")
    return tuple(time - times[0] for time in times)


def _time(number: int, line: str) -> float:
    try:
        value: Any = json.loads(line)
        if isinstance(value, dict):
            found = next((name for name in FIELDS if name in value), None)
            if found is None:
                raise ValueError(f"no field of {', '.join(FIELDS)}")
            value = value[found]
        seconds = float(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"line {number}: no number of seconds ({error})") from None
    if not math.isfinite(seconds):
        raise ValueError(f"line {number}: {seconds} is no number of seconds")
    return seconds

"""What each setting of the load generator takes: lists, numbers, names; a bad value is one line. Pure."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paceline.loadgen.arrivals import ArrivalError, parse_arrival
from paceline.loadgen.mix_options import MIX_CHECKS
from paceline.loadgen.slo import SloError, parse_slo
from paceline.loadgen.wire_options import WIRE_CHECKS
from paceline.loadgen.workload import WorkloadError, make_workload

POISSON = "poisson"


def concurrency_list(value: Any) -> tuple[int, ...]:
    """`1,2,4` (or a list of numbers) as a tuple of positive numbers. ArgumentTypeError otherwise."""
    parts = value.split(",") if isinstance(value, str) else value or ()
    try:
        levels = tuple(int(part) for part in parts if str(part).strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not a list like 1,2,4") from None
    if any(level < 1 for level in levels):
        raise argparse.ArgumentTypeError(f"{value!r}: every level must be at least 1")
    return levels


def rate_list(value: Any) -> tuple[float, ...]:
    """`0.5,1,2` (or a list of numbers) as a tuple of positive numbers. ArgumentTypeError otherwise."""
    parts = value.split(",") if isinstance(value, str) else value or ()
    return tuple(dict.fromkeys(rate(str(part)) for part in parts if str(part).strip()))


def _at_least(kind: type[int] | type[float], low: float) -> Callable[[str], float]:
    def check(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= low):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least {low:g}")
        return value

    return check


def rate(text: str) -> float:
    """Requests a second, above 0. ArgumentTypeError otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate above 0 requests a second")
    return value


def _one_rate(text: str) -> float:
    """0 is what the form of the web UI sends for a closed loop; nobody types it."""
    return 0.0 if text == "0.0" else rate(text)


def _arrival(text: str) -> str:
    try:
        parse_arrival(text or POISSON)
    except ArrivalError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _share(text: str) -> float:
    value = _at_least(float, 0)(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def _choice(*names: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is neither {' nor '.join(names)}")
        return text

    return check


def _workload(text: str) -> str:
    try:
        make_workload(text)
    except WorkloadError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def slo_name(text: str) -> str:
    """The name of a preset or of limits. ArgumentTypeError where it is neither."""
    try:
        return parse_slo(text).name
    except SloError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@functools.cache  # Locust parses its command line again for every page: by then a run's own records are there
def _new_folder(text: str) -> str:
    if text and any(Path(text).glob("requests.*.jsonl")):
        raise argparse.ArgumentTypeError(f"{text!r} holds the records of an earlier run")
    return text


CHECKS: dict[str, Callable[[str], Any]] = {
    **MIX_CHECKS,
    **WIRE_CHECKS,
    "workload": _workload,
    "slo": lambda text: slo_name(text) if text else "",
    "out": _new_folder,
    "level_min_s": _at_least(float, 0),
    "level_max_s": _at_least(float, 0.1),
    "level_requests": _at_least(int, 0),
    "level_warmup": _at_least(int, -1),
    "drain_s": _at_least(float, 0),
    "max_tokens_scale": _at_least(float, 0.001),
    "nonce": _at_least(int, -1),
    "request_timeout_s": _at_least(float, 0.001),
    "channels": _at_least(int, 1),
    "trace_share": _share,
    "arrival": _arrival,
    "rate": _one_rate,
    "max_outstanding": _at_least(int, 1),
    "over_saturation": _choice("stop", "continue"),
    "first_level": _at_least(int, 0),
}

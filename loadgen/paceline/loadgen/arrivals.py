"""When requests arrive in an open loop: patterns of send times, drawn from a seed. Pure: no clock.

A pattern says how arrivals are spaced; the rate says how many there are. Over `seconds` there are exactly
round(rate x seconds) of them, so that two levels of one rate offer the same load whatever the seed: random
patterns are drawn and then stretched to that length, which leaves their shape (a Poisson process of known
size is just this).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from paceline.loadgen.trace_file import read_trace

EXAMPLES = "constant, poisson, gamma:SHAPE, ramp:FROM:TO, steps:R1,R2,… or trace:FILE"
MOST_ARRIVALS = 1_000_000


class ArrivalError(ValueError):
    """The arrivals cannot be used; the text says why, in one line."""


class Arrival(Protocol):
    """A pattern of arrivals."""

    @property
    def has_own_rate(self) -> bool:
        """It brings its own rate: none may be given beside it."""

    @property
    def own_seconds(self) -> float | None:
        """How long it lasts by itself; None where as long as it is asked to."""

    def offsets(self, rate: float, seconds: float, rng: random.Random) -> list[float]:
        """Seconds from the start of the level to each arrival, ascending, in [0, seconds)."""


@dataclass(frozen=True, slots=True)
class Spaced:
    """Gaps of one distribution with mean 1, stretched to the rate."""

    gap: Callable[[random.Random], float]
    has_own_rate: bool = False
    own_seconds: float | None = None

    def offsets(self, rate: float, seconds: float, rng: random.Random) -> list[float]:
        count = _count(rate * seconds)
        ends = list(accumulate(self.gap(rng) for _ in range(count + 1)))
        return [end / ends[-1] * seconds for end in ends[:-1]]


@dataclass(frozen=True, slots=True)
class Constant:
    """Equal gaps, the first arrival at once."""

    has_own_rate: bool = False
    own_seconds: float | None = None

    def offsets(self, rate: float, seconds: float, rng: random.Random) -> list[float]:
        return [i / rate for i in range(_count(rate * seconds))]


@dataclass(frozen=True, slots=True)
class Ramp:
    """A Poisson process whose rate goes in a straight line from `first` to `last` requests a second."""

    first: float
    last: float
    has_own_rate: bool = True
    own_seconds: float | None = None

    def offsets(self, rate: float, seconds: float, rng: random.Random) -> list[float]:
        total = seconds * (self.first + self.last) / 2
        return [self._at(share * total, seconds) for share in _uniform(_count(total), rng)]

    def _at(self, arrived: float, seconds: float) -> float:
        """When so many are expected to have arrived: the inverse of first t + (last - first) t² / (2 seconds)."""
        slope = (self.last - self.first) / seconds
        root = math.sqrt(max(0.0, self.first**2 + 2 * slope * arrived))
        return min(2 * arrived / (self.first + root), seconds)


@dataclass(frozen=True, slots=True)
class Steps:
    """A Poisson process whose rate changes in steps of equal length."""

    rates: tuple[float, ...]
    has_own_rate: bool = True
    own_seconds: float | None = None

    def offsets(self, rate: float, seconds: float, rng: random.Random) -> list[float]:
        length = seconds / len(self.rates)
        return [
            (step + share) * length
            for step, one in enumerate(self.rates)
            for share in _uniform(_count(one * length), rng)
        ]


@dataclass(frozen=True, slots=True)
class Trace:
    """The times of a file, as they are."""

    times: tuple[float, ...]
    has_own_rate: bool = True

    @property
    def own_seconds(self) -> float | None:
        """To the last arrival, and as much more as one mean gap, so that the rate over it is the trace's."""
        last = self.times[-1]
        return last + (last / (len(self.times) - 1) if last else 1.0)

    def offsets(self, rate: float, seconds: float, rng: random.Random) -> list[float]:
        return [time for time in self.times if time < seconds]


def parse_arrival(text: str) -> Arrival:
    """The pattern of a name with its numbers. ArrivalError says in one line what is wrong."""
    name, _, rest = text.partition(":")
    make = PATTERNS.get(name)
    if make is None:
        raise ArrivalError(f"{text!r} are no arrivals: write {EXAMPLES}")
    return make(rest)


def _constant(rest: str) -> Arrival:
    _nothing("constant", rest)
    return Constant()


def _poisson(rest: str) -> Arrival:
    _nothing("poisson", rest)
    return Spaced(lambda rng: rng.expovariate(1.0))


def _gamma(rest: str) -> Arrival:
    """Below a shape of 1 arrivals come in bursts, above it they are more even than by chance."""
    (shape,) = _numbers("gamma:SHAPE", rest.split(":"), 1)
    return Spaced(lambda rng: rng.gammavariate(shape, 1.0))


def _ramp(rest: str) -> Arrival:
    first, last = _numbers("ramp:FROM:TO", rest.split(":"), 2)
    return Ramp(first, last)


def _steps(rest: str) -> Arrival:
    return Steps(tuple(_numbers("steps:R1,R2,…", rest.split(","), None)))


def _trace(rest: str) -> Arrival:
    try:
        return Trace(read_trace(rest))
    except (OSError, ValueError) as error:
        raise ArrivalError(f"trace {rest!r}: {error}") from error


PATTERNS: dict[str, Callable[[str], Arrival]] = {
    "constant": _constant,
    "poisson": _poisson,
    "gamma": _gamma,
    "ramp": _ramp,
    "steps": _steps,
    "trace": _trace,
}


def _nothing(name: str, rest: str) -> None:
    if rest:
        raise ArrivalError(f"{name} takes no number, not {rest!r}")


def _numbers(form: str, parts: Sequence[str], count: int | None) -> list[float]:
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not values or (count is not None and len(values) != count):
        raise ArrivalError(f"{form.partition(':')[0]}:{':'.join(parts)}: write {form}")
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ArrivalError(f"{form}: every number must be above 0")
    return values


def _count(expected: float) -> int:
    if expected > MOST_ARRIVALS:
        raise ArrivalError(f"{expected:,.0f} arrivals in one level are more than {MOST_ARRIVALS:,}")
    return max(1, round(expected))


def _uniform(count: int, rng: random.Random) -> list[float]:
    """The places of a Poisson process of known size in [0, 1)."""
    return sorted(rng.random() for _ in range(count))

"""What the dashboard shows beyond metrics: latencies in fine bins, and the requests that ended last. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from math import frexp, ldexp

import msgspec

_PER_OCTAVE = 8  # a bin is 6 to 12 % wide
_LEAST_S = 1e-6  # what no time at all counts as
KEPT = 12  # ended requests
SHOWN_OF_ID = 8  # characters: they find a line of the log, and tell nobody what to abort

Bins = dict[int, int]  # how many values each bin has, by its number


class Ended(msgspec.Struct, frozen=True):
    """A request that ended: counts and times (seconds), no texts, no caller. `status` is gRPC's."""

    id: str
    at_s: float  # since 1970
    status: str
    finish: str  # the completions' reasons, separated by commas; empty: none ended
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    queue_s: float
    ttft_s: float
    tpot_s: float
    total_s: float
    rows: float
    preemptions: int


class Glimpse(msgspec.Struct):
    """Grows with what is observed until it is taken."""

    ttft: Bins = msgspec.field(default_factory=dict)
    itl: Bins = msgspec.field(default_factory=dict)
    ended: list[Ended] = msgspec.field(default_factory=list)

    def first(self, seconds: float) -> None:
        """A completion had its first token so long after its arrival."""
        _count(self.ttft, _bin_of(seconds), 1)

    def between(self, seconds: float, times: int) -> None:
        """So much time was between two tokens, so many times."""
        _count(self.itl, _bin_of(seconds), times)

    def end(self, requests: Iterable[Ended]) -> None:
        """These requests ended, the newest last."""
        self.ended.extend(requests)
        del self.ended[:-KEPT]

    def add(self, other: Glimpse) -> None:
        """Observes what `other` observed too."""
        merge(self.ttft, other.ttft)
        merge(self.itl, other.itl)
        self.end(other.ended)

    def take(self) -> Glimpse:
        """What was observed since the last time."""
        taken = Glimpse(self.ttft, self.itl, self.ended)
        self.ttft, self.itl, self.ended = {}, {}, []
        return taken


def merge(mine: Bins, other: Bins) -> None:
    """Adds the other's counts."""
    for number, times in other.items():
        _count(mine, number, times)


def percentiles(bins: Bins, shares: tuple[float, ...]) -> tuple[float | None, ...]:
    """Seconds that such shares of the values do not exceed, within 6 %; None of no values."""
    if not bins:
        return (None,) * len(shares)
    ordered = sorted(bins.items())
    total = sum(bins.values())
    return tuple(_percentile(ordered, share * total) for share in shares)


def _percentile(ordered: list[tuple[int, int]], wanted: float) -> float:
    below = accumulate(times for _, times in ordered)
    number = next(
        number for (number, _), seen in zip(ordered, below, strict=True) if seen >= wanted
    )
    exponent, place = divmod(number, _PER_OCTAVE)
    return ldexp((_PER_OCTAVE + place + 0.5) / (2 * _PER_OCTAVE), exponent)


def _bin_of(seconds: float) -> int:
    mantissa, exponent = frexp(seconds or _LEAST_S)  # the mantissa is 0.5 to 1
    return _PER_OCTAVE * exponent + int(2 * _PER_OCTAVE * mantissa) - _PER_OCTAVE


def _count(bins: Bins, number: int, times: int) -> None:
    bins[number] = bins.get(number, 0) + times

"""A histogram of durations with fixed logarithmic buckets: small on the wire, exact to merge. Pure.

All processes use the same buckets, so the sum of their histograms is the histogram of all their values.
A quantile is off by at most 1 % of its value, which is what a live table needs; reports read the records.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

LEAST_S = 1e-5  # smaller values count as this one
GROWTH = 1.02
_LOG_GROWTH = math.log(GROWTH)


@dataclass(slots=True)
class Histogram:
    """How many values fell into each bucket; bucket i holds LEAST_S * GROWTH**i up to the next."""

    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, value_s: float, count: int = 1) -> None:
        """Count a value, or several equal ones."""
        self.buckets[_bucket(value_s)] += count

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        self.buckets.update(other.buckets)

    @property
    def count(self) -> int:
        return self.buckets.total()

    def quantile(self, share: float) -> float | None:
        """The value in seconds that `share` of all do not exceed; None where the sample is too small for it.

        As in the report, a quantile above the median needs n (1 - share) >= 1: of 20 values nobody knows a p99.
        """
        whole = self.count
        if not whole or (share > 0.5 and whole * (1 - share) < 1 - 1e-9):
            return None
        rank, seen = math.ceil(share * whole), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return _middle(bucket)
        return None

    def to_message(self) -> list[int]:
        """Bucket, count, bucket, count, … in order of the buckets."""
        return [number for pair in sorted(self.buckets.items()) for number in pair]

    @classmethod
    def from_message(cls, numbers: list[int]) -> Histogram:
        """The inverse of `to_message`."""
        return cls(Counter(dict(zip(numbers[::2], numbers[1::2], strict=True))))


def _bucket(value_s: float) -> int:
    return math.floor(math.log(max(value_s, LEAST_S) / LEAST_S) / _LOG_GROWTH)


def _middle(bucket: int) -> float:
    """The geometric middle of a bucket: no value in it is further off than 1 %."""
    return LEAST_S * math.exp((bucket + 0.5) * _LOG_GROWTH)

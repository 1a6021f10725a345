"""How much one caller may ask for: a rate, and so many requests at once. Pure; time comes in as an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import LimitReached

_ROUNDING = 1e-9  # of the arithmetic: whoever waits as long as told must get in
_BUSY_RETRY_S = 1.0  # nobody knows when one of the caller's own requests ends


@dataclass(frozen=True, slots=True)
class Allowance:
    """Requests a second, and requests at once; None: as many as there are."""

    rate: float | None = None
    concurrency: int | None = None


class Bucket:
    """A token bucket: `rate` a second flow in, and a second's worth, at least one, may be taken at once.

    More than fits is taken from a full bucket and owed: then nothing is given until it has flowed in.
    """

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.size = max(1.0, rate)
        self._level = self.size
        self._at = now

    def take(self, amount: float, now: float) -> float:
        """0 and it is taken; or nothing is, and so many seconds from `now` it could be."""
        if now > self._at:
            self._level = min(self.size, self._level + (now - self._at) * self.rate)
            self._at = now
        short = min(amount, self.size) - self._level
        if short > _ROUNDING:
            return short / self.rate
        self._level -= amount
        return 0.0

    def put_back(self, amount: float) -> None:
        self._level = min(self.size, self._level + amount)


class Quota:
    """What is left of an allowance. Belongs to one event loop."""

    def __init__(self, allowance: Allowance, now: float) -> None:
        self.running = 0
        self._allowance = allowance
        self._bucket = _bucket(allowance, now)

    def allow(self, allowance: Allowance, now: float) -> None:
        """Another allowance from now on; what runs still counts."""
        if allowance.rate != self._allowance.rate:
            self._bucket = _bucket(allowance, now)
        self._allowance = allowance

    @property
    def most(self) -> int | None:
        """More than these never get in together."""
        return self._allowance.concurrency

    def enter(self, amount: int, now: float) -> None:
        """Lets so many requests in together, to be given back by `leave`. LimitReached if not now."""
        if not amount:
            return
        most = self.most
        if most is not None and self.running + amount > most:
            raise LimitReached(f"this token may run {most} requests at once", _BUSY_RETRY_S)
        if self._bucket is not None and (wait_s := self._bucket.take(amount, now)):
            # The wire counts milliseconds.
            raise LimitReached(
                f"this token may send {self._bucket.rate:g} requests a second",
                math.ceil(wait_s * 1e3) / 1e3,
            )
        self.running += amount

    def leave(self, amount: int) -> None:
        self.running -= amount

    def undo(self, amount: int) -> None:
        """Makes undone what `enter` let in and did not start: it counts in no rate."""
        self.running -= amount
        if self._bucket is not None:
            self._bucket.put_back(amount)


def _bucket(allowance: Allowance, now: float) -> Bucket | None:
    return None if allowance.rate is None else Bucket(allowance.rate, now)

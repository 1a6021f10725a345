"""How fast the queue empties, as seen lately. Pure; time comes in as differences."""

from __future__ import annotations

from math import exp

_MEMORY_S = 20.0  # what was seen so long ago weighs 1/e


class DrainRate:
    """Requests that got their turn in a second, over the seconds in which somebody could not have it at once.

    Time in which everybody joins as he comes says nothing about how fast a full house empties, so it does
    not count.
    """

    def __init__(self) -> None:
        self._joined = 0.0
        self._seconds = 0.0

    @property
    def per_s(self) -> float | None:
        """None until somebody had to wait.

        One more than there were: as long as nobody was seen to join, the time that was waited is a bound.
        """
        return (self._joined + 1.0) / self._seconds if self._seconds > 0 else None

    def passed(self, seconds: float) -> None:
        """So long somebody waited."""
        kept = exp(-seconds / _MEMORY_S)
        self._joined *= kept
        self._seconds = self._seconds * kept + seconds

    def joined(self) -> None:
        """Somebody who had waited got his turn."""
        self._joined += 1.0

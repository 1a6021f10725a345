"""The search for the highest rate that meets an SLO: which rate to try next. Pure: it is told what came of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

UP, DOWN = 1.4, 0.5


@dataclass(slots=True)
class RateSearch:
    """Bisection on a logarithmic scale, after a bracket was found by steps from `first`.

    `levels` bounds how many rates are tried, `within` is how near the best rate that met the SLO and the lowest that
    missed it must be for the search to end.
    """

    first: float
    levels: int
    within: float = 1.08
    tried: list[tuple[float, bool]] = field(default_factory=list)

    def next_rate(self) -> float | None:
        """The rate to try next, to three digits; None at the end of the search."""
        met, missed = self.best, self.lowest_miss
        if len(self.tried) >= self.levels:
            return None
        if met is None and missed is None:
            return self._rounded(self.first)
        if missed is None:
            return self._rounded(met * UP) if met is not None else None
        if met is None:
            return self._rounded(missed * DOWN)
        return None if missed / met <= self.within else self._rounded(math.sqrt(met * missed))

    def tell(self, rate: float, met: bool) -> None:
        """What came of a rate."""
        self.tried.append((rate, met))

    @property
    def best(self) -> float | None:
        """The highest rate that met the SLO below every one that missed it; None where none did."""
        ceiling = self.lowest_miss or math.inf
        return max((rate for rate, met in self.tried if met and rate < ceiling), default=None)

    @property
    def lowest_miss(self) -> float | None:
        """The lowest rate that missed it."""
        return min((rate for rate, met in self.tried if not met), default=None)

    @property
    def bounded(self) -> bool:
        """The best rate lies between one that met the SLO and one that missed it."""
        return self.best is not None and self.lowest_miss is not None

    @staticmethod
    def _rounded(rate: float) -> float:
        return float(f"{rate:.3g}")

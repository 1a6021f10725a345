"""Whether arrivals outrun a server, and how much it can take. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GROWTH_SHARE = 0.1  # of the arrivals that pile up for a level to count as over-saturated
GROWTH_LEAST = 5.0  # requests: fewer are the noise of arrivals
FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2)
QUICK_FRACTIONS = (0.25, 0.5, 0.8, 1.2)

Samples = Sequence[tuple[float, float]]  # (moment in seconds, requests in flight from then on)


def in_flight_slope(samples: Samples) -> float:
    """Requests a second by which the number in flight grows: the slope of a straight line through the samples."""
    if len(samples) < 2:
        return 0.0
    moments, flying = (
        np.asarray(column, dtype=np.float64) for column in zip(*samples, strict=True)
    )
    moments = moments - moments.mean()
    spread = float((moments**2).sum())
    return float((moments * (flying - flying.mean())).sum()) / spread if spread > 0 else 0.0


def over_saturated(samples: Samples, rate: float) -> bool:
    """Whether at `rate` requests a second more came than ended.

    In flight grows by what arrives less what ends: where a tenth of the arrivals pile up, and more than a handful,
    no longer level would be any better.
    """
    if len(samples) < 2:
        return False
    slope = in_flight_slope(samples)
    elapsed = samples[-1][0] - samples[0][0]
    return slope >= GROWTH_SHARE * rate and slope * elapsed >= GROWTH_LEAST


def evenly(
    steps: Samples, start_s: float, end_s: float, count: int = 60
) -> list[tuple[float, float]]:
    """A step function of the number in flight looked at `count` times in [start, end]."""
    moments = np.asarray([moment for moment, _ in steps], dtype=np.float64)
    looks = np.linspace(start_s, end_s, count)
    places = np.searchsorted(moments, looks, side="right") - 1
    return [
        (float(look), float(steps[place][1]) if place >= 0 else 0.0)
        for look, place in zip(looks, places, strict=True)
    ]


def rates_of(saturation: float, fractions: Sequence[float]) -> tuple[float, ...]:
    """Rates at these fractions of a measured saturation, to two digits, each once."""
    return tuple(dict.fromkeys(float(f"{fraction * saturation:.2g}") for fraction in fractions))

"""The schedules of an open loop's levels, as the settings ask for them. Pure."""

from __future__ import annotations

from paceline.loadgen.arrivals import parse_arrival
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.schedule import Schedule, make_schedule


def schedules_of(options: LoadOptions, run_time_s: float | None = None) -> list[Schedule]:
    """The schedules of all levels. `run_time_s`, where given, is what they take together. Raises ArrivalError."""
    own_s = parse_arrival(options.arrivals).own_seconds
    seconds = options.level_max_s if own_s is None else own_s
    if run_time_s is not None:
        share = run_time_s / len(options.open_rates)
        seconds = share if own_s is None else min(share, own_s)
    return [
        make_schedule(options.arrivals, rate, round(seconds, 6), options.seed)
        for rate in options.open_rates
    ]

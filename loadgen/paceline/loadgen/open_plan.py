"""How an open-loop bench shares its time out over calibration and levels. Pure."""

from __future__ import annotations

from dataclasses import replace

from paceline.loadgen.bench_options import BenchOptions
from paceline.loadgen.bench_plan import REPORT_S, START_S, Plan, make_plan
from paceline.loadgen.open_options import OpenOptions
from paceline.loadgen.saturation import FRACTIONS, QUICK_FRACTIONS

LOCUST_S = 4.0  # a start and end of the load generator
LEVEL_S = 0.8  # what a level takes beside its sending and draining
SEARCH_LEVELS, QUICK_SEARCH_LEVELS = 8, 5
CALIBRATION_SHARE = 0.2  # of the budget, at most
STOP_S = 3.0  # for the server to end
LEAST_LEVEL_S = 2.0
OPEN_DRAIN_SHARE = 0.3  # a request that is cut can meet no SLO and miss none


def plan_for(options: BenchOptions, *, spent_s: float = 0.0, modes_left: int | None = None) -> Plan:
    """The plan of a bench, closed or open, for the modes that are left."""
    closed = make_plan(options, spent_s=spent_s, modes_left=modes_left)
    if options.open is None:
        return closed
    modes = modes_left or (1 if options.target else len(options.modes))
    starts = 0.0 if options.target else modes * START_S
    left = (options.budget_s - spent_s - starts - REPORT_S) / modes - calibration_s(options)
    return _with_levels(options, closed, left)


def after_calibration(options: BenchOptions, plan: Plan, spent_s: float) -> Plan:
    """The plan of the only mode once its saturation is known: levels get what the calibration left."""
    return _with_levels(options, plan, options.budget_s - spent_s - STOP_S - REPORT_S)


def _with_levels(options: BenchOptions, plan: Plan, left_s: float) -> Plan:
    """`left_s` shared out evenly over the levels of a mode."""
    levels = level_count(options)
    runs = levels if options.open and options.open.search else 1
    level_s = max(LEAST_LEVEL_S, (left_s - runs * LOCUST_S) / levels - LEVEL_S)
    drain_s = OPEN_DRAIN_SHARE * level_s
    return replace(
        plan,
        level_min_s=0.0,
        level_max_s=round(level_s - drain_s, 2),
        drain_s=round(drain_s, 2),
        level_requests=0,
        baseline_s=0.0,
    )


def level_count(options: BenchOptions) -> int:
    """Levels of each mode."""
    if options.open is None:
        return len(options.concurrency)
    if options.open.search:
        return QUICK_SEARCH_LEVELS if options.quick else SEARCH_LEVELS
    return 1 if options.open.own_rate else len(options.open.rates or fractions(options))


def fractions(options: BenchOptions) -> tuple[float, ...]:
    """Of the saturation, for `--rates auto`."""
    return QUICK_FRACTIONS if options.quick else FRACTIONS


def calibration_s(options: BenchOptions) -> float:
    """Seconds that the closed loop for the saturation takes at most, Locust's start included; 0: none."""
    opened: OpenOptions | None = options.open
    if opened is None or not opened.calibrated:
        return 0.0
    return LOCUST_S + max(LEAST_LEVEL_S, CALIBRATION_SHARE * options.budget_s)

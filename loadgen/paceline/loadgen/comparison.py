"""Two runs, figure by figure: how much they differ, how sure that is, and a verdict. Pure, seeded.

All arithmetic is on logarithms, so that twice as much and half as much are equally far from the same. A difference
counts if it is larger than the threshold (the user's per cent or the noise floor, whichever is more) and than what
chance makes of all figures together: its interval, at 95 % for the family of all figures, leaves out zero. Where the
spread is that of a few repeats it is itself uncertain: quantiles are Student's, degrees of freedom Welch's
(https://en.wikipedia.org/wiki/Welch%E2%80%93Satterthwaite_equation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from paceline.loadgen.client_health import client_limits
from paceline.loadgen.compared_run import ComparedRun, LevelKey, Part
from paceline.loadgen.distribution import Floats
from paceline.loadgen.measures import SUB_WINDOWS, Measure, measures
from paceline.loadgen.slo import Slo
from paceline.loadgen.wording import listing

FASTER, SLOWER, UNSURE = "faster", "slower", "cannot tell"
MACHINE = ("cpu", "cores_usable", "gpus")
CONFIDENCE = 0.05
_MANY = 1e9  # degrees of freedom with which Student's distribution is the normal one


def compare_runs(
    base: Sequence[ComparedRun],
    new: Sequence[ComparedRun],
    *,
    slo: Slo,
    threshold: float = 0.05,
    seed: int = 0,
) -> dict[str, Any]:
    """Every level that both have, as JSON values; `base` and `new` may each be several runs of the same.

    `differing` names what the runs do not share; the caller decides whether to judge all the same.
    """
    known = dict.fromkeys(key for run in base for key in run.parts)
    keys = [key for key in known if any(key in run.parts for run in new)]
    refused = {key: why for key in keys if (why := client_bound([*base, *new], key))}
    kept = [key for key in keys if key not in refused]
    chosen = measures(slo)
    pairs = [(key, one) for key in kept for one in chosen]
    strict = CONFIDENCE / max(1, len(pairs))
    random = np.random.default_rng(seed)
    rows = [
        _row(key, one, _parts(base, key), _parts(new, key), threshold, strict, random)
        for key, one in pairs
    ]
    return {
        "schema_version": 1,
        "base": [run.name for run in base],
        "new": [run.name for run in new],
        "slo": slo.name,
        "threshold": threshold,
        "differing": differing([*base, *new]),
        "refused": [_named(key) | {"reason": why} for key, why in refused.items()],
        "missing": _missing(base, new),
        "rows": rows,
        "verdict": overall([row["verdict"] for row in rows]),
    }


def overall(verdicts: Sequence[str | None]) -> str:
    """One slower figure makes it slower; without one, one faster makes it faster."""
    if SLOWER in verdicts:
        return SLOWER
    return FASTER if FASTER in verdicts else UNSURE


def differing(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """What runs must share and do not: fingerprint and machine, each with the first pair of values that differs."""
    first, found = _identity(runs[0]), list[dict[str, Any]]()
    for run in runs[1:]:
        other = _identity(run)
        for name in dict.fromkeys([*first, *other]):
            pair = first.get(name), other.get(name)
            if pair[0] != pair[1] and name not in [one["name"] for one in found]:
                found.append({"name": name, "base": pair[0], "new": pair[1]})
    return found


def _identity(run: ComparedRun) -> dict[str, Any]:
    machine = {name: run.summary["environment"].get(name) for name in MACHINE}
    return dict(run.summary["fingerprint"]) | machine


def client_bound(runs: Sequence[ComparedRun], key: LevelKey) -> str | None:
    """Why a level says nothing about the server; None where it does."""
    for run in runs:
        for level in run.summary["levels"]:
            if (level["mode"], level["target"]["value"]) != (key.mode, key.value):
                continue
            if reasons := client_limits(level["client"]):
                return f"the load generator of {run.name} was the limit: {listing(reasons)}"
    return None


def _missing(base: Sequence[ComparedRun], new: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    sides = [{key for run in side for key in run.parts} for side in (base, new)]
    return [_named(key) for key in sorted(sides[0] ^ sides[1])]


def _named(key: LevelKey) -> dict[str, Any]:
    return {"mode": key.mode, "kind": key.kind, "value": key.value, "label": key.label}


def _parts(runs: Sequence[ComparedRun], key: LevelKey) -> list[Part]:
    return [part for run in runs for part in run.parts.get(key, ())]


def _row(
    key: LevelKey,
    measure: Measure,
    base: Sequence[Part],
    new: Sequence[Part],
    threshold: float,
    strict: float,
    random: np.random.Generator,
) -> dict[str, Any]:
    """One figure of one level. `verdict` and all that leads to it is None where the requests are too few."""
    row: dict[str, Any] = _named(key) | {"measure": measure.key, "name": measure.label}
    sides = [_Side(measure, parts, random) for parts in (base, new)]
    known = dict(zip(("base", "new"), (side.figure for side in sides), strict=True))
    empty = dict.fromkeys(("change", "change_ci95", "noise_floor", "floor_from", "verdict"))
    row |= known | empty | {"repeats": [len(base), len(new)]}
    if None in known.values():
        return row
    draws = sides[1].draws - sides[0].draws
    change = sides[1].log - sides[0].log
    spread = math.hypot(sides[0].spread, sides[1].spread)
    floor, source = max((side.floor() for side in sides), key=_certainty)
    freedom = _freedom(sides)
    low, high = _interval(change, draws, spread, freedom)
    real = abs(change) > _quantile(strict, freedom) * spread and not low <= 0 <= high
    counts = real and abs(math.expm1(change)) > max(threshold, floor or 0.0)
    verdict = UNSURE if not counts else FASTER if change * measure.better > 0 else SLOWER
    row |= {"change": math.expm1(change), "change_ci95": [math.expm1(low), math.expm1(high)]}
    return row | {"noise_floor": floor, "floor_from": source, "verdict": verdict}


def _certainty(floor: tuple[float | None, str | None]) -> tuple[bool, float]:
    """Repeats tell the noise better than quarters do; of two floors of one source the higher one counts."""
    return floor[1] == "repeats", floor[0] or 0.0


def _interval(change: float, draws: Floats, spread: float, freedom: float) -> tuple[float, float]:
    """The bootstrap's 95 % interval, widened where repeats or quarters spread further than requests do."""
    low, high = np.quantile(draws, (CONFIDENCE / 2, 1 - CONFIDENCE / 2))
    half = _quantile(CONFIDENCE, freedom) * spread
    return min(float(low), change - half), max(float(high), change + half)


def _quantile(chance: float, freedom: float) -> float:
    """How many spreads away chance comes so seldom, both sides together."""
    return float(stdtrit(freedom, 1 - chance / 2))


def _freedom(sides: Sequence[_Side]) -> float:
    """Welch's degrees of freedom of the difference; many where it is the requests that spread."""
    known = sum(side.spread**4 / side.freedom for side in sides)
    return float(sum(side.spread**2 for side in sides) ** 2 / known) if known else _MANY


class _Side:
    """One run, or several of the same: the figure, its bootstrap, and how far it spreads."""

    def __init__(
        self, measure: Measure, parts: Sequence[Part], random: np.random.Generator
    ) -> None:
        values = [measure.values(part) for part in parts]
        made = [measure.estimate(one) for one in values]
        self.figure: float | None = None
        if not made or any(one is None for one in made):
            return
        self._logs = np.log(np.array(made, dtype=np.float64))
        self.log = float(self._logs.mean())
        self.figure = math.exp(self.log)
        self.draws: Floats = np.mean([measure.draws(one, random) for one in values], axis=0)
        self._quarters = [one for part in values if (one := measure.sub_windows(part))]
        within, between = float(self.draws.std()), self._between()
        self.spread = max(within, between)
        repeated = len(self._logs) > 1 and between > within
        self.freedom = len(self._logs) - 1.0 if repeated else _MANY

    def _between(self) -> float:
        """Standard error of the figure by its repeats, or by the quarters of its window."""
        if len(self._logs) > 1:
            return float(self._logs.std(ddof=1)) / math.sqrt(len(self._logs))
        if not self._quarters:
            return 0.0
        return float(np.std(self._quarters[0], ddof=1)) / math.sqrt(SUB_WINDOWS)

    def floor(self) -> tuple[float | None, str | None]:
        """How far two measurements of the same differ: the widest pair of repeats, or twice the quarters' error."""
        if len(self._logs) > 1:
            return math.expm1(float(np.ptp(self._logs))), "repeats"
        if not self._quarters:
            return None, None
        return math.expm1(2 * math.sqrt(2) * self._between()), "sub-windows"

"""One mode under an open loop: saturation first where it is asked for, then rates or the search for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paceline.loadgen.bench_options import BenchOptions
from paceline.loadgen.bench_plan import REPORT_S, Plan
from paceline.loadgen.goodput import goodput
from paceline.loadgen.level_schedules import schedules_of
from paceline.loadgen.load_run import LoadRuns
from paceline.loadgen.open_options import OpenOptions
from paceline.loadgen.open_plan import (
    LOCUST_S,
    after_calibration,
    calibration_s,
    fractions,
    level_count,
)
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.rate_search import RateSearch
from paceline.loadgen.saturation import rates_of
from paceline.loadgen.schedule import schedule_digest
from paceline.loadgen.slo import Slo, parse_slo
from paceline.loadgen.statistics import latency_records
from paceline.loadgen.sweep import SweepFailed
from paceline.loadgen.timing import Record, without_probes
from paceline.loadgen.window import open_window, steady_window

CALIBRATION_LEVEL = 90  # its prompts are those of no other level
FIRST_SHARE = 0.7  # of the saturation: where the search begins
SLACK_S = 45.0
ENOUGH_ENDED = 30
LEAST_JUDGED = 5  # requests: fewer say nothing of a level


@dataclass(slots=True)
class OpenBench:
    """Runs the levels and fills `told`, what the summary says of the open loop as a whole."""

    options: BenchOptions
    plan: Plan
    load: LoadOptions  # of the closed loop: the open one changes levels and rates
    runs: LoadRuns
    told: dict[str, Any]

    def run(self) -> None:
        """Raises SweepFailed; what was measured until then is kept."""
        opened = self._opened
        saturation = self._saturation() if opened.calibrated else None
        self.told.update(
            arrival=opened.arrival, saturation_req_s=saturation, levels=[], search=None
        )
        if opened.search:
            assert saturation is not None, "a search is always calibrated"
            self._search(saturation)
        else:
            auto = rates_of(saturation, fractions(self.options)) if saturation else ()
            self._sweep(opened.rates or auto)

    @property
    def _opened(self) -> OpenOptions:
        assert self.options.open is not None, "only an open loop comes here"
        return self.options.open

    def _open_load(self, name: str, rates: Sequence[float], first_level: int) -> LoadOptions:
        return replace(
            self.load,
            concurrency=(),
            level_warmup=-1,
            out=str(Path(self.load.out) / name),
            arrival=self._opened.arrival,
            rates=tuple(rates),
            max_outstanding=self._opened.max_outstanding,
            over_saturation=self._opened.over_saturation,
            first_level=first_level,
        )

    def _saturation(self) -> float:
        """Requests a second that end where as many are in flight as fit a batch. Raises SweepFailed."""
        longest_s = calibration_s(self.options) - LOCUST_S
        load = replace(
            self.load,
            out=str(Path(self.load.out) / "calibration"),
            level_min_s=longest_s / 3,
            level_max_s=longest_s,
            level_requests=ENOUGH_ENDED,
            drain_s=0.5,
            first_level=CALIBRATION_LEVEL,
        )
        self.runs.progress.say("measuring the saturation in a closed loop")
        records = self.runs.run(load, limit_s=longest_s + SLACK_S, keep=False, quiet=True)
        found = saturation_of(records, max(load.concurrency))
        if not found:
            raise SweepFailed("no request ended within the calibration: give --rates")
        if len(self.options.modes) == 1 or self.options.target:
            self.plan = after_calibration(self.options, self.plan, self.runs.progress.elapsed_s)
        return found

    def _sweep(self, rates: Sequence[float]) -> None:
        load = self._open_load("rates", sorted(rates), 0)
        self._note(load)
        levels = len(rates) or 1
        limit_s = SLACK_S + levels * (self.plan.level_max_s + 2 * self.plan.drain_s + 2)
        own_s = sum(one.seconds for one in schedules_of(load))
        self.runs.progress.say(f"offering requests by {load.arrivals} arrivals")
        self.runs.run(load, limit_s=max(limit_s, own_s + SLACK_S))

    def _search(self, saturation: float) -> None:
        slo = parse_slo(self.options.slo[0])
        search = RateSearch(FIRST_SHARE * saturation, level_count(self.options))
        found: list[dict[str, Any]] = []
        self.told["search"] = {"slo": slo.name, "rate": None, "bounded": False, "tried": found}
        while (rate := search.next_rate()) is not None and not self._late(len(found)):
            self.runs.progress.say(f"trying {rate:g} requests a second for {slo.name}")
            load = self._open_load(f"search-{len(found)}", (rate,), len(found))
            self._note(load)
            limit_s = SLACK_S + self.plan.level_max_s + 2 * self.plan.drain_s
            judged = judge(self.runs.run(load, limit_s=limit_s), slo)
            search.tell(rate, judged["met"])
            found.append({"rate": rate} | judged)
            self.told["search"] |= {"rate": search.best, "bounded": search.bounded}

    def _late(self, levels: int) -> bool:
        """Another level would not fit the time that was promised; two are tried whatever they take."""
        level_s = LOCUST_S + self.plan.level_max_s + self.plan.drain_s + REPORT_S
        spent_s = self.runs.progress.elapsed_s
        return levels >= 2 and spent_s + level_s > self.options.budget_s

    def _note(self, load: LoadOptions) -> None:
        self.told["levels"] += [
            {
                "rate": one.rate,
                "arrivals": len(one.times),
                "seconds": one.seconds,
                "sha256": schedule_digest(one.times),
            }
            for one in schedules_of(load)
        ]


def saturation_of(records: Sequence[Record], target: int) -> float | None:
    """Requests a second that a server ends with its batch kept full, from a closed loop.

    Where too few ended to count them: tokens a second over the tokens that a request asks for.
    """
    records = without_probes(records)
    window = steady_window(records, target).window
    if window is not None and window.seconds > 0:
        ended = sum(record.ok and window.holds(record.t_end) for record in records)
        if ended >= ENOUGH_ENDED:
            return ended / window.seconds
    moments = [moment for record in records for moment in record.arrivals_s]
    if not moments:
        return None
    elapsed = max(moments) - min(record.t_send for record in records)
    tokens = sum(record.counted_tokens for record in records)
    asked = sum(record.requested_tokens for record in records) / len(records)
    return tokens / elapsed / asked if asked and elapsed > 0 else None


def judge(records: Sequence[Record], slo: Slo) -> dict[str, Any]:
    """Whether a level met an SLO: of the requests it was judged by, the share that its highest quantile asks for.

    Dropped, shed and failed requests are misses, and an over-saturated level meets nothing: it would have missed had
    it only been longer. Nor does one of which fewer than five requests can be judged.
    """
    records = without_probes(records)
    verdict, window, _ = open_window(records)
    chosen = latency_records(records, window)
    one = goodput(chosen, window.seconds if window else None, slo)
    wanted = max(limit.quantile for limit in slo.limits)
    kept_up = verdict == "steady"
    known = one["attainment"] is not None and one["judged"] >= LEAST_JUDGED
    met = kept_up and known and one["attainment"] >= wanted
    shown = {name: one[name] for name in ("attainment", "attainment_ci95", "judged")}
    return shown | {"wanted": wanted, "kept_up": kept_up, "met": met}

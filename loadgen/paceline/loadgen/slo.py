"""Service-level objectives: what a request must meet to count as good, and what a level must meet to pass. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.loadgen.outcomes import outcome
from paceline.loadgen.timing import Record

METRICS = ("ttft", "tpot", "e2e")
PART = re.compile(r"(ttft|tpot|e2e)(?:_p(\d{1,2}(?:\.\d+)?))?(?:_ms)?=(\d+(?:\.\d+)?)")
EXAMPLE = "ttft_p99=450,tpot_p99=40"


class SloError(ValueError):
    """The text names no SLO; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One latency's bound in milliseconds. `quantile` says of how many requests a level must keep it."""

    metric: str
    quantile: float
    limit_ms: float

    @property
    def key(self) -> str:
        """`ttft_p99_ms`: the name with its unit, as the summary holds it."""
        return f"{self.metric}_p{100 * self.quantile:g}_ms"

    def value_s(self, record: Record) -> float | None:
        """The latency that is bounded: from the schedule where there is one, else from the send."""
        if self.metric == "tpot":
            return record.tpot_s
        if self.metric == "ttft":
            return record.ttft_due_s
        return record.e2e_s if record.t_int is None else record.e2e_scheduled_s


@dataclass(frozen=True, slots=True)
class Slo:
    """A named set of limits."""

    name: str
    limits: tuple[Limit, ...]

    def limit_ms(self, metric: str) -> float | None:
        """The bound of one metric; None where it has none."""
        return next((one.limit_ms for one in self.limits if one.metric == metric), None)

    def meets(self, record: Record) -> bool | None:
        """Whether a request came to its own end within ALL limits; None where nobody can say.

        One cut by the end of its level is a miss if it had already broken its TTFT or E2E limit, and else
        unknown. One that its workload cancelled is judged by nobody; one that missed its deadline is a miss.
        An answer in one message has no TPOT.
        """
        end = outcome(record)
        if end == "cancelled_by_plan":
            return None
        if end == "cut":
            return False if any(_broken(limit, record) for limit in self.limits) else None
        return end == "ok" and all(_kept(limit, record) for limit in self.limits)

    def passes(self, records: Sequence[Record]) -> bool | None:
        """Whether each limit's quantile over all judged requests keeps it, failed ones counted as endless.

        None where the requests are too few to tell such a quantile: n (1 - q) < 1.
        """
        judged = [record for record in records if self.meets(record) is not None]
        if not judged or any(len(judged) * (1 - one.quantile) < 1 - 1e-9 for one in self.limits):
            return None
        return all(_quantile(limit, judged) <= limit.limit_ms for limit in self.limits)


def _kept(limit: Limit, record: Record) -> bool:
    value = limit.value_s(record)
    return value is None or value * 1e3 <= limit.limit_ms


def _broken(limit: Limit, record: Record) -> bool:
    """A cut request shows its TTFT, or that it waited for one in vain, and how long it took at least."""
    if limit.metric == "tpot":
        return False
    shown = limit.value_s(record)
    if shown is None:
        shown = record.t_end - (record.t_send if record.t_int is None else record.t_int)
    return shown * 1e3 > limit.limit_ms


def _quantile(limit: Limit, records: Sequence[Record]) -> float:
    values = [_endless(limit, record) for record in records]
    return sorted(values)[math.ceil(limit.quantile * (len(values) - 1))]


def _endless(limit: Limit, record: Record) -> float:
    if not record.ok:
        return math.inf
    value = limit.value_s(record)
    return 0.0 if value is None else 1e3 * value


def _mlperf(ttft_ms: float, tpot_ms: float) -> tuple[Limit, ...]:
    return (Limit("ttft", 0.99, ttft_ms), Limit("tpot", 0.99, tpot_ms))


# The p99 limits of MLPerf Inference's language-model benchmarks, by model and scenario
# (mlcommons/inference, loadgen/mlperf.conf and the rules' table of constraints).
PRESETS = {
    name: Slo(name, _mlperf(*limits))
    for name, limits in {
        "llama2-70b-server": (2000, 200),
        "llama2-70b-interactive": (450, 40),
        "llama3.1-8b-server": (2000, 100),
        "llama3.1-8b-interactive": (500, 30),
        "llama3.1-405b-server": (6000, 175),
        "llama3.1-405b-interactive": (4500, 80),
        "mixtral-8x7b-server": (2000, 200),
        "deepseek-r1-server": (2000, 80),
        "deepseek-r1-interactive": (1500, 15),
        "gpt-oss-120b-server": (3000, 80),
        "gpt-oss-120b-interactive": (2000, 15),
    }.items()
}
DEFAULT = ("llama2-70b-server", "llama2-70b-interactive")


def parse_slo(text: str) -> Slo:
    """A preset's name or limits in milliseconds, `ttft_p99=450,tpot_p99=40`; without `_pNN`, p99.

    Raises:
        SloError: an unknown preset, an unknown metric, no positive number, a metric named twice.
    """
    text = text.strip()
    if text in PRESETS:
        return PRESETS[text]
    if "=" not in text:
        raise SloError(f"{text!r} is no SLO: write {EXAMPLE} or one of {', '.join(PRESETS)}")
    limits = tuple(_limit(part.strip()) for part in text.split(","))
    metrics = [one.metric for one in limits]
    if len(set(metrics)) < len(metrics):
        raise SloError(f"{text!r} bounds one latency twice")
    return Slo(text, limits)


def _limit(part: str) -> Limit:
    found = PART.fullmatch(part)
    if found is None:
        raise SloError(f"{part!r} is no limit: write {EXAMPLE} (of {', '.join(METRICS)}, in ms)")
    metric, percentile, limit = found[1], float(found[2] or 99), float(found[3])
    if not 0 < percentile < 100 or limit <= 0:
        raise SloError(f"{part!r}: percentile and limit must be above 0")
    return Limit(metric, percentile / 100, limit)

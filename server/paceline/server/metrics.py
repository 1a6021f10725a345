"""Prometheus metrics, named as vLLM names its own. Gauges and counters are read from the engine at scrape time."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from .errors import REFUSALS
from .request import STEP_SECONDS, FinishReason, Load
from .tally import SCALES, Bins, Scale, Tally

# Known from the start, so that a rate over them begins at 0.
_REASONS = [reason.value for reason in FinishReason]
_STEP = Scale("From the launch of a step until the engine goes on.", STEP_SECONDS)
_BUCKET = "Steps by the shape that they were padded to, in tokens; other: of no bucket."


class Watched(Protocol):
    """The engine, as far as it is looked at. Any thread."""

    @property
    def healthy(self) -> bool: ...

    def load(self) -> Load: ...


class Metrics:
    """All metrics of one server, in a registry of their own; `tally` is what its front ends counted."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._registry = CollectorRegistry()
        self._engines: tuple[Watched | None, ...] = (None,)
        self._facts: dict[str, str] = {}
        self._restarts: dict[int, tuple[int, float]] = {}  # how often, and when last
        self._registry.register(_Collector(self))

    def watch(self, *engines: Watched, facts: dict[str, str] | None = None) -> None:
        """Reads these from now on; `facts` are labels that tell what is served."""
        self._engines, self._facts = engines, facts or {}

    def restarted(self, time_s: float, number: int = 0) -> None:
        """The engine of this number is ready again after a death, at this time since 1970."""
        count, _ = self._restarts.get(number, (0, 0.0))
        self._restarts[number] = count + 1, time_s

    def text(self) -> bytes:
        """Everything, in Prometheus' text format. Any thread."""
        return generate_latest(self._registry)

    def observed(self) -> Iterable[Metric]:
        """What the front ends counted until now."""
        tally = self.tally
        yield _labelled(
            "request_success",
            "Completions by how they ended.",
            "finished_reason",
            dict.fromkeys(_REASONS, 0) | tally.finished,
        )
        statuses = tally.statuses.copy()
        yield _labelled("requests", "Generation calls by gRPC status.", "status", statuses)
        text = "Generation calls that were refused."
        yield _labelled(
            "request_rejections", text, "reason", dict.fromkeys(REFUSALS, 0) | tally.refused
        )
        for name, scale in SCALES.items():
            yield _histogram(name, scale, tally.bins[name])

    def engine_metrics(self) -> Iterable[Metric]:
        """What is served, and what the engines' counters say: of several, each one's, with its number as `engine`."""
        yield InfoMetricFamily("paceline_server", "What is served; always 1.", self._facts)
        first, *others = map(self._engine_metrics, range(len(self._engines)))
        yield from map(_by_engine, zip(first, *others, strict=True)) if others else first

    def _engine_metrics(self, number: int) -> Iterable[Metric]:
        engine = self._engines[number]
        load = Load() if engine is None else engine.load()
        healthy = engine is not None and engine.healthy
        restarts, restarted = self._restarts.get(number, (0, 0.0))
        yield _gauge("engine_healthy", "Whether the engine's loop is alive.", healthy)
        yield _counter("engine_restarts", "Engines that replaced a dead one.", restarts)
        when = "When the engine was last ready again, in seconds since 1970; 0: it never died."
        yield _gauge("engine_last_restart_timestamp_seconds", when, restarted)
        yield _gauge("num_requests_running", "Completions being computed.", load.running)
        yield _gauge("num_requests_waiting", "Completions in the queue.", load.waiting)
        yield _gauge("queue_tokens", "Prompt tokens in the queue.", load.waiting_tokens)
        wait = "How long a request of ordinary priority would wait in the queue."
        yield _gauge("estimated_queue_wait_seconds", wait, load.queue_wait_s)
        used = load.pages_used / load.pages_total if load.pages_total else 0.0
        yield _gauge("kv_cache_usage_perc", "Share of KV pages in use, 0 to 1.", used)
        yield _gauge("step_rows", "Rows of the latest step.", load.step_rows)
        yield _counter("prompt_tokens", "Prompt tokens computed.", load.prompt_tokens)
        yield _counter("generation_tokens", "Tokens generated.", load.output_tokens)
        queries = load.prompt_tokens + load.cached_tokens
        yield _counter("prefix_cache_queries", "Prompt tokens looked for in the cache.", queries)
        yield _counter("prefix_cache_hits", "Prompt tokens found there.", load.cached_tokens)
        yield _counter("num_preemptions", "Completions that lost their pages.", load.preemptions)
        yield _counter("steps", "Calls of the model.", load.steps)
        yield _counter("step_seconds", "Seconds spent in steps.", load.step_s)
        yield _counter("step_rows_sum", "Rows of all steps.", load.row_steps)
        yield _counter("real_tokens", "Tokens computed, without padding.", load.real_tokens)
        yield _counter("padded_tokens", "Tokens computed, with padding.", load.padded_tokens)
        yield _labelled("bucket_steps", _BUCKET, "tokens", _buckets(load.bucket_steps))
        bins = Bins(list(load.step_bins) or [0] * (len(STEP_SECONDS) + 1), load.step_s)
        yield _histogram("step_time_seconds", _STEP, bins)


class _Collector:
    """Asked at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        yield from self._metrics.observed()
        yield from self._metrics.engine_metrics()


def _by_engine(metrics: tuple[Metric, ...]) -> Metric:
    """One metric of several engines."""
    metrics[0].samples = [
        sample._replace(labels=sample.labels | {"engine": str(number)})
        for number, metric in enumerate(metrics)
        for sample in metric.samples
    ]
    return metrics[0]


def _histogram(name: str, scale: Scale, bins: Bins) -> HistogramMetricFamily:
    bounds = [*map(floatToGoString, scale.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(bins.counts), strict=True))
    return HistogramMetricFamily(
        f"paceline_{name}", scale.text, buckets=buckets, sum_value=bins.total
    )


def _labelled(name: str, text: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"paceline_{name}", text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _buckets(steps: dict[int, int]) -> dict[str, int]:
    return {str(tokens) if tokens else "other": count for tokens, count in steps.items()}


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"paceline_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"paceline_{name}", text, value=value)

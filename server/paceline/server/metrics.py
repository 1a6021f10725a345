"""Prometheus metrics, named as vLLM names its own. Gauges and counters are read from the engine at scrape time."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from .engine import Engine
from .request import Finish, Load

# Small models answer in milliseconds and a busy CPU in minutes; steps of about 1, 2, 5.
_SECONDS = tuple(base * 10.0**power for power in range(-3, 3) for base in (1.0, 2.0, 5.0))
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_REJECTIONS = {
    "RESOURCE_EXHAUSTED": "queue_full",
    "INVALID_ARGUMENT": "invalid",
    "FAILED_PRECONDITION": "feature",
    "UNAVAILABLE": "unavailable",
}


class Metrics:
    """All metrics of one server, in a registry of their own. Safe to use from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._engine: Engine | None = None
        self._make_counters()
        self._make_histograms()
        self._registry.register(_EngineCollector(self))

    def watch(self, engine: Engine) -> None:
        """Reads the engine from now on."""
        self._engine = engine

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)

    def made(self, tokens: int, seconds: float) -> None:
        """A completion gained tokens, `seconds` after its earlier ones."""
        for _ in range(tokens):
            self._itl.observe(seconds / tokens)

    def ended(self, finish: Finish) -> None:
        """A completion ended."""
        self._success.labels(finish.reason.value).inc()
        usage, timings = finish.usage, finish.timings
        self._prompt_tokens.observe(usage.prompt_tokens)
        self._generation_tokens.observe(usage.completion_tokens)
        self._queue.observe(timings.queue_s)
        self._e2e.observe(timings.total_s)
        if not timings.ttft_s:  # it never got a token
            return
        self._ttft.observe(timings.ttft_s)
        self._prefill.observe(timings.prefill_s)
        self._decode.observe(timings.decode_s)
        self._rows.observe(timings.batch_rows_mean)
        if usage.completion_tokens > 1:
            self._tpot.observe(timings.decode_s / (usage.completion_tokens - 1))

    def answered(self, status: str) -> None:
        """A generation call, or an item of a batch, ended with this gRPC status."""
        self._requests.labels(status).inc()
        if status in _REJECTIONS:
            self._rejections.labels(_REJECTIONS[status]).inc()

    def engine_metrics(self) -> Iterable[Metric]:
        """What the engine's counters say now."""
        load = Load() if self._engine is None else self._engine.load()
        healthy = self._engine is not None and self._engine.healthy
        yield _gauge("engine_healthy", "Whether the engine's loop is alive.", healthy)
        yield _gauge("num_requests_running", "Completions being computed.", load.running)
        yield _gauge("num_requests_waiting", "Completions in the queue.", load.waiting)
        yield _gauge("queue_tokens", "Prompt tokens in the queue.", load.waiting_tokens)
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

    def _make_counters(self) -> None:
        self._success = self._labelled(
            "request_success", "Completions by how they ended.", "finished_reason"
        )
        self._requests = self._labelled("requests", "Generation calls by gRPC status.", "status")
        self._rejections = self._labelled(
            "request_rejections", "Generation calls that were refused.", "reason"
        )

    def _make_histograms(self) -> None:
        seconds = self._histogram
        self._ttft = seconds("time_to_first_token_seconds", "From arrival to the first token.")
        self._itl = seconds("inter_token_latency_seconds", "Between tokens of a completion.")
        self._tpot = seconds(
            "request_time_per_output_token_seconds", "Mean after the first token, per completion."
        )
        self._e2e = seconds("e2e_request_latency_seconds", "From arrival to the end.")
        self._queue = seconds("request_queue_time_seconds", "From arrival until scheduled.")
        self._prefill = seconds("request_prefill_time_seconds", "Until the first token.")
        self._decode = seconds("request_decode_time_seconds", "From the first token to the last.")
        self._rows = self._histogram("request_batch_rows", "Mean rows in its steps.", _ROWS)
        self._prompt_tokens = self._histogram("request_prompt_tokens", "Per prompt.", _TOKENS)
        self._generation_tokens = self._histogram(
            "request_generation_tokens", "Per completion.", _TOKENS
        )

    def _histogram(self, name: str, text: str, buckets: Iterable[float] = _SECONDS) -> Histogram:
        return Histogram(f"paceline_{name}", text, buckets=tuple(buckets), registry=self._registry)

    def _labelled(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"paceline_{name}", text, [label], registry=self._registry)


class _EngineCollector:
    """Asked at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.engine_metrics()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"paceline_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"paceline_{name}", text, value=value)

"""Traces by OpenTelemetry's GenAI conventions. Needs the extra `otel`; without an endpoint nothing is imported.

A request's spans are made when it has ended, of the times that the engine took anyway: no step costs more for them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .config import ServeConfig
from .errors import SetupError
from .job import Job
from .logs import RequestRecord
from .request import Finish
from .server_info import version

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

Metadata = Iterable[tuple[str, str | bytes]]
Attributes = dict[str, Any]

_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_INSTALL = "pip install 'paceline[otel]'"
# Statuses that are the server's fault, by the conventions for RPC; the others are the caller's.
_OURS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


def check(config: ServeConfig) -> None:
    """SetupError if traces are asked for and cannot be made; where the environment alone asks, a warning."""
    if not _wanted(config) or _installed():
        return
    if config.otlp_endpoint is not None:
        raise SetupError(f"--otlp-endpoint needs OpenTelemetry: {_INSTALL}")
    logger.warning("no traces, though OTEL_EXPORTER_OTLP_ENDPOINT is set: %s", _INSTALL)


def make(config: ServeConfig) -> Tracing | None:
    """What sends this process's traces; None: nobody wants them."""
    if not _wanted(config) or not _installed():
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are heard, as are the variables of sampler, batches and exporter.
    resource = Resource.create({"service.version": version(), "process.pid": os.getpid()})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "paceline"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(config.otlp_endpoint)))
    return Tracing(provider)


class Tracing:
    """Makes the spans of requests that ended, as children of the spans their callers named in `traceparent`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("paceline.server", version())

    def follow(self, record: RequestRecord, metadata: Metadata, model: str) -> None:
        """Traces the request of this record when it ends."""
        record.trace = lambda: self._ended(record, metadata, model)

    def close(self) -> None:
        """Sends what is left; takes seconds where the collector does not answer."""
        self._provider.shutdown()

    def _ended(self, record: RequestRecord, metadata: Metadata, model: str) -> str:
        """Sends the spans; the trace's id, in hex."""
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id

        begun = record.begun if record.job is None else record.job.request.arrival
        end_ns = time.time_ns()
        begin_ns = end_ns - round((time.monotonic() - begun) * 1e9)
        operation = "chat" if record.job is not None and record.job.chat else "text_completion"
        span = self._tracer.start_span(
            f"{operation} {model}",
            propagate.extract({key: value for key, value in metadata if isinstance(value, str)}),
            SpanKind.SERVER,
            {"gen_ai.operation.name": operation, "gen_ai.request.model": model},
            start_time=begin_ns,
        )
        if span.is_recording():
            span.set_attributes(_attributes(record, model))
            if record.status in _OURS:
                span.set_status(Status(StatusCode.ERROR))
            for finish in record.finishes:
                self._phases(span, begin_ns, finish)
        span.end(end_ns)
        return format_trace_id(span.get_span_context().trace_id)

    def _phases(self, parent: Any, begin_ns: int, finish: Finish) -> None:
        """Child spans of one completion: what it waited for, and what it shared steps with."""
        from opentelemetry.trace import set_span_in_context

        context, times, usage = set_span_in_context(parent), finish.timings, finish.usage
        first_s = times.queue_s + times.prefill_s

        def child(name: str, from_s: float, until_s: float, attributes: Attributes) -> None:
            start_ns, end_ns = (begin_ns + round(at_s * 1e9) for at_s in (from_s, until_s))
            span = self._tracer.start_span(
                name, context, attributes=attributes, start_time=start_ns
            )
            span.end(end_ns)

        child("queue", 0.0, times.queue_s, {})
        if times.prefill_s:
            prompt = {
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            }
            child("prefill", times.queue_s, first_s, prompt)
        if times.ttft_s:
            steps = {
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "paceline.batch_rows.mean": times.batch_rows_mean,
                "paceline.batch_rows.max": times.batch_rows_max,
                "paceline.preemptions": times.preemptions,
            }
            child("decode", first_s, first_s + times.decode_s, steps)


def _attributes(record: RequestRecord, model: str) -> Attributes:
    found: Attributes = {
        "gen_ai.provider.name": "paceline",
        "gen_ai.response.model": model,
        "gen_ai.request.stream": record.rpc == "GenerateStream",
        "rpc.system.name": "grpc",
        "rpc.method": f"paceline.v1.GenerationService/{record.rpc}",
        "rpc.response.status_code": record.status,
    }
    if record.status != "OK":
        found["error.type"] = record.status
    if record.job is not None:
        found |= _asked(record.job)
    finishes = record.finishes
    if finishes:
        first = min((f.timings.ttft_s for f in finishes if f.timings.ttft_s), default=None)
        found |= {
            "gen_ai.response.finish_reasons": [finish.reason.value for finish in finishes],
            "gen_ai.usage.output_tokens": sum(f.usage.completion_tokens for f in finishes),
            "gen_ai.usage.cache_read.input_tokens": finishes[0].usage.cached_tokens,
        }
        if first is not None:
            found["gen_ai.response.time_to_first_chunk"] = first
    return found


def _asked(job: Job) -> Attributes:
    """What the request asked for. Nothing that it says: no prompt, no stop strings, no constraint."""
    request, sampling = job.request, job.request.sampling
    return {
        "gen_ai.response.id": request.id,
        "gen_ai.usage.input_tokens": len(request.prompt_ids),
        "gen_ai.request.choice.count": request.n,
        "gen_ai.request.max_tokens": request.stopping.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        # OTLP's integers have 64 bits with a sign.
        "gen_ai.request.seed": sampling.seed if sampling.seed < 2**63 else str(sampling.seed),
    }


def _wanted(config: ServeConfig) -> bool:
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not off and (config.otlp_endpoint is not None or any(map(os.environ.get, _VARIABLES)))


def _installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.grpc") is not None
    except ModuleNotFoundError:
        return False

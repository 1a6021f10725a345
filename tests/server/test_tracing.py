"""Traces, from the load generator and the client to the engine's own times, at a real OTLP collector."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_rpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider

from background_server import BackgroundServer
from mock_serving import Gate
from paceline.client import Client, DeadlineExceeded
from paceline.loadgen.call import Call
from paceline.loadgen.grpc_wire import GrpcWire
from paceline.loadgen.prompt import Prompt
from paceline.server import tracing
from paceline.server.config import ServeConfig
from paceline.server.errors import SetupError
from paceline.server.loader import Loaded
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer

SECRET = "the prompt nobody may see"


class Collector(otlp_rpc.TraceServiceServicer):
    """Keeps what is exported to it."""

    def __init__(self) -> None:
        self.exports: list[otlp.ExportTraceServiceRequest] = []

    def Export(
        self, request: otlp.ExportTraceServiceRequest, context: Any
    ) -> otlp.ExportTraceServiceResponse:
        self.exports.append(request)
        return otlp.ExportTraceServiceResponse()


@dataclass(frozen=True)
class Traced:
    """What a server exported until it was closed."""

    exports: list[otlp.ExportTraceServiceRequest]
    spans: list[Span]

    def children(self, parent: Span) -> dict[str, Span]:
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}

    def of_trace(self, trace_id: str) -> Span:
        """The server's own span of the trace."""
        (found,) = (s for s in self.spans if s.trace_id.hex() == trace_id and s.kind == KIND_SERVER)
        return found


KIND_SERVER = Span.SPAN_KIND_SERVER


def values(span: Span) -> dict[str, Any]:
    """A span's attributes as plain values."""
    found = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        assert kind is not None
        value = getattr(attribute.value, kind)
        found[attribute.key] = (
            [v.string_value for v in value.values] if kind == "array_value" else value
        )
    return found


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector, and its endpoint."""
    server, made = grpc.server(ThreadPoolExecutor(2)), Collector()
    otlp_rpc.add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]  # stubs without types
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="module")
def calls(collector: tuple[Collector, str], tokenizer: Tokenizer) -> tuple[Traced, dict[str, str]]:
    """What a server exported of a few calls, and the trace of each by its name."""
    gate, made = Gate(steps=100), collector[0]
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    server = BackgroundServer(Loaded(runner, tokenizer), otlp_endpoint=collector[1])
    tracer = TracerProvider().get_tracer("test")
    traces = {}
    with Client(server.target) as client:
        with tracer.start_as_current_span("caller") as span:
            traces["client"] = f"{span.get_span_context().trace_id:032x}"
            client.generate(SECRET, max_tokens=5, temperature=0, stop="never found")
        with tracer.start_as_current_span("caller") as span:
            traces["chat"] = f"{span.get_span_context().trace_id:032x}"
            list(client.stream([{"role": "user", "content": SECRET}], max_tokens=2, n=2))
        wire = GrpcWire(server.target, 1, trace_share=1.0)
        call = Call(Prompt("a", SECRET, max_tokens=3), 0, 1, "measure", time.perf_counter)
        call.run(wire, 20.0)
        wire.close()
        traces["load"] = call.record(mode="m", worker=0).trace_id
        # Asked to trace almost none, the load generator decides for the server, too.
        wire = GrpcWire(server.target, 1, trace_share=1e-300)
        call = Call(Prompt("b", SECRET, max_tokens=4), 0, 1, "measure", time.perf_counter)
        call.run(wire, 20.0)
        wire.close()
        assert call.status == "OK" and call.record(mode="m", worker=0).trace_id == ""
        gate._steps = 0
        with tracer.start_as_current_span("caller") as span, pytest.raises(DeadlineExceeded):
            traces["late"] = f"{span.get_span_context().trace_id:032x}"
            client.generate(SECRET, timeout_s=0.2)
    gate.open()
    server.close()
    scopes = [s for e in made.exports for r in e.resource_spans for s in r.scope_spans]
    return Traced(made.exports, [span for scope in scopes for span in scope.spans]), traces


def test_a_client_in_a_span_is_the_servers_parent(
    calls: tuple[Traced, dict[str, str]], tokenizer: Tokenizer
) -> None:
    """The server's span goes on with the caller's trace and speaks the GenAI and RPC conventions."""
    traced, traces = calls
    span = traced.of_trace(traces["client"])
    found = values(span)
    assert span.name == "text_completion mock" and span.parent_span_id
    assert found["gen_ai.operation.name"] == "text_completion"
    assert found["gen_ai.provider.name"] == "paceline"
    assert found["gen_ai.request.model"] == found["gen_ai.response.model"] == "mock"
    assert found["gen_ai.request.max_tokens"] == found["gen_ai.usage.output_tokens"] == 5
    assert found["gen_ai.usage.input_tokens"] == len(tokenizer.encode(SECRET))
    assert found["gen_ai.response.finish_reasons"] == ["max_tokens"]
    assert found["gen_ai.response.time_to_first_chunk"] > 0
    assert found["rpc.method"] == "paceline.v1.GenerationService/Generate"
    assert found["rpc.response.status_code"] == "OK" and "error.type" not in found
    resource = traced.exports[0].resource_spans[0].resource
    assert {a.value.string_value for a in resource.attributes if a.key == "service.name"} == {
        "paceline"
    }


def test_a_traces_children_are_the_engines_phases(calls: tuple[Traced, dict[str, str]]) -> None:
    """Queue, prefill and decode follow each other within the server's span, with what they shared steps with."""
    traced, traces = calls
    span = traced.of_trace(traces["load"])
    children = traced.children(span)
    assert len({s.trace_id for s in traced.spans}) == len(traces), "one request is not to be traced"
    assert children.keys() == {"queue", "prefill", "decode"}
    queue, prefill, decode = (children[name] for name in ("queue", "prefill", "decode"))
    assert span.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano
    assert decode.start_time_unix_nano < decode.end_time_unix_nano <= span.end_time_unix_nano
    assert values(decode)["gen_ai.usage.output_tokens"] == 3
    assert (
        values(decode)["paceline.batch_rows.mean"] == values(decode)["paceline.batch_rows.max"] == 1
    )


def test_a_chat_and_its_completions(calls: tuple[Traced, dict[str, str]]) -> None:
    """A conversation is the operation `chat`; each of its completions has phases of its own."""
    traced, traces = calls
    span = traced.of_trace(traces["chat"])
    found = values(span)
    assert span.name == "chat mock" and found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.finish_reasons"] == ["max_tokens"] * 2
    assert found["gen_ai.usage.output_tokens"] == 4
    names = sorted(s.name for s in traced.spans if s.parent_span_id == span.span_id)
    assert names == ["decode", "decode", "prefill", "prefill", "queue", "queue"]


def test_a_late_request_is_an_error(calls: tuple[Traced, dict[str, str]]) -> None:
    """A deadline that passed is the server's error, under the name of the status."""
    traced, traces = calls
    span = traced.of_trace(traces["late"])
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert values(span)["error.type"] == "DEADLINE_EXCEEDED"


def test_no_prompt_leaves_the_server(calls: tuple[Traced, dict[str, str]]) -> None:
    """Nothing of what callers wrote is in what the collector got."""
    exported = b"".join(export.SerializeToString() for export in calls[0].exports)
    assert b"text_completion" in exported
    assert SECRET.encode() not in exported and b"never found" not in exported


def test_without_the_extra_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A flag that cannot be followed ends the start; a variable of the environment, made for many programs, warns."""
    for name in tracing._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracing, "_installed", lambda: False)
    tracing.check(ServeConfig())
    assert not caplog.records
    with pytest.raises(
        SetupError, match=r"^--otlp-endpoint needs .* pip install 'paceline\[otel\]'$"
    ):
        tracing.check(ServeConfig(otlp_endpoint="http://localhost:4317"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
    tracing.check(ServeConfig())
    assert "paceline[otel]" in caplog.text
    assert tracing.make(ServeConfig()) is None

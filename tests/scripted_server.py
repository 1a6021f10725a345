"""A real gRPC service whose answers a test writes, and the messages it writes them with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as pb_grpc

WAIT_S = 60.0
METHODS = (
    "Generate",
    "GenerateStream",
    "GenerateBatch",
    "Tokenize",
    "Detokenize",
    "GetModelInfo",
    "GetServerInfo",
    "GetLoad",
    "Abort",
)

Handler = Callable[[Any, grpc.ServicerContext], Any]


@dataclass
class Call:
    """What the server saw of one attempt."""

    method: str
    request: Any
    metadata: dict[str, str]
    deadline_s: float | None


@dataclass
class ScriptedServer:
    """Answers each method with the handler a test put in `handlers`, and keeps what it was asked."""

    target: str = ""
    handlers: dict[str, Handler] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a call ends, however it ends."""

    def handle(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        self.calls.append(Call(method, request, metadata, context.time_remaining()))
        context.add_callback(self.left.set)
        return self.handlers[method](request, context)


def servicer(server: ScriptedServer) -> pb_grpc.GenerationServiceServicer:
    """A servicer whose every method is the script's."""

    def method(name: str) -> Callable[..., Any]:
        def handle(_self: object, request: Any, context: grpc.ServicerContext) -> Any:
            return server.handle(name, request, context)

        return handle

    members = {name: method(name) for name in METHODS}
    kind = type("ScriptedServicer", (pb_grpc.GenerationServiceServicer,), members)
    return kind()  # type: ignore[no-any-return]  # type() cannot say which class it made


def answer(text: str = "there", **finish: Any) -> pb.GenerateResponse:
    """A plain answer of two tokens."""
    completion = pb.Completion(
        text=text,
        num_tokens=2,
        finish=pb.Finish(**finish or {"reason": pb.FINISH_REASON_EOS}),
        seed=7,
    )
    return pb.GenerateResponse(
        result=pb.GenerationResult(
            request_id="r1",
            model="scripted",
            completions=[completion],
            usage=pb.Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1),
            timings=pb.Timings(queue_ms=1.5, total_ms=9.0, batch_rows_max=4),
            seed=7,
        )
    )


def header() -> pb.GenerateStreamResponse:
    """The first message of a stream."""
    return pb.GenerateStreamResponse(
        header=pb.StreamHeader(request_id="r1", model="scripted", seed=7, prompt_tokens=3)
    )


def delta(text: str, offset: int = 0, index: int = 0) -> pb.GenerateStreamResponse:
    """A message of one token."""
    return pb.GenerateStreamResponse(index=index, text=text, num_tokens=1, offset=offset)


def ending(offset: int) -> pb.GenerateStreamResponse:
    """The last message: finish and summary together."""
    return pb.GenerateStreamResponse(
        offset=offset,
        finish=pb.Finish(reason=pb.FINISH_REASON_MAX_TOKENS),
        summary=pb.StreamSummary(
            usage=pb.Usage(prompt_tokens=3, completion_tokens=offset),
            timings=pb.Timings(ttft_ms=2.0, total_ms=9.0),
        ),
    )


def bad_request(field_path: str, description: str) -> Message:
    """The detail that names a bad field."""
    violation = error_details_pb2.BadRequest.FieldViolation(
        field=field_path, description=description
    )
    detail: Message = error_details_pb2.BadRequest(field_violations=[violation])
    return detail


def retry_info(seconds: float) -> Message:
    """The detail that says when to come back."""
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(int(seconds * 1000))
    detail: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return detail


def fail(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    message: str,
    *details: Message,
    pushback_ms: int | None = None,
) -> Any:
    """Ends the call with a status, its rich details and the pushback trailer."""
    packed = [any_pb2.Any() for _ in details]
    for holder, detail in zip(packed, details, strict=True):
        holder.Pack(detail)
    status: Any = rpc_status.to_status(
        status_pb2.Status(code=code.value[0], message=message, details=packed)
    )
    if pushback_ms is not None:
        pushback = (("grpc-retry-pushback-ms", str(pushback_ms)),)
        status = status._replace(trailing_metadata=status.trailing_metadata + pushback)
    context.abort_with_status(status)

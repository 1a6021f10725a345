"""A gRPC server whose answers follow a script, run as a process of its own: `python scripted_server.py [options]`.

It prints its port on the first line. Options give the default script; a prompt that is a JSON object
({"first_ms", "gap_ms", "per_message", "status", "skip"}) overrides it for its own request. It counts what
it does, so that GetLoad tells a test how many streams were begun, ended and cancelled. With `--log` each stream that
ended is a line of that file: its script's name and when each message with tokens left, by `time.perf_counter`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

Context = grpc.aio.ServicerContext


@dataclass(frozen=True)
class Script:
    """How one request is answered: delays in milliseconds, tokens a message, a status to fail with, a lost message."""

    first_ms: float = 20.0
    gap_ms: float = 2.0
    per_message: int = 1
    status: str = ""
    skip: int = -1  # the message (of those with tokens) that is never sent
    stall_ms: float = 0.0  # the whole server stands still for so long when this request comes
    name: str = ""


class Scripted(rpc.GenerationServiceServicer):
    """Answers as told, with sleeps as exact as asyncio's."""

    def __init__(self, script: Script, context_tokens: int, log: Path | None, token: str) -> None:
        self.script = script
        self.log = log
        self.token = token
        self.context_tokens = context_tokens
        self.started_s = time.monotonic()
        self.running = self.finished = self.cancelled = self.output_tokens = 0

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context[Any, Any]
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        shown = dict(context.invocation_metadata() or ()).get("authorization")
        if self.token and shown != f"Bearer {self.token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        generation = request.generation
        script = self._script(generation.text)
        self.running += 1
        try:
            async for message in self._messages(generation, script, context):
                yield message
            self.finished += 1
        except (asyncio.CancelledError, GeneratorExit):  # the latter where it was sending
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def _script(self, text: str) -> Script:
        return Script(**json.loads(text)) if text.startswith("{") else self.script

    async def _messages(
        self, generation: pb.Generation, script: Script, context: Context[Any, Any]
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        arrived_s = time.monotonic()
        time.sleep(script.stall_ms / 1e3)  # noqa: ASYNC251  # nobody is to be served meanwhile
        prompt_tokens = len(generation.text.split())
        header = pb.StreamHeader(request_id="r", model="scripted", prompt_tokens=prompt_tokens)
        yield pb.GenerateStreamResponse(header=header)
        await asyncio.sleep(script.first_ms / 1e3)
        if script.status:
            await context.abort(grpc.StatusCode[script.status], "as scripted")
        wanted, sent, place = generation.stopping.max_tokens, 0, 0
        left_s: list[float] = []
        while sent < wanted:
            if sent:
                await asyncio.sleep(script.gap_ms / 1e3)
            count = min(script.per_message, wanted - sent)
            left_s.append(time.perf_counter())
            if place != script.skip:
                yield pb.GenerateStreamResponse(num_tokens=count, offset=sent, text="word " * count)
            sent, place = sent + count, place + 1
            self.output_tokens += count
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(json.dumps({"name": script.name, "left_s": left_s}) + "\n")
        finish = pb.Finish(reason=pb.FINISH_REASON_MAX_TOKENS)
        yield pb.GenerateStreamResponse(offset=sent, finish=finish)  # a message without tokens
        total_ms = (time.monotonic() - arrived_s) * 1e3
        yield pb.GenerateStreamResponse(
            summary=pb.StreamSummary(
                usage=pb.Usage(prompt_tokens=prompt_tokens, completion_tokens=sent),
                timings=pb.Timings(
                    queue_ms=1.0,
                    prefill_ms=max(script.first_ms - 1.0, 0.0),
                    decode_ms=max(total_ms - script.first_ms, 0.0),
                    ttft_ms=script.first_ms,
                    total_ms=total_ms,
                    batch_rows_mean=1.0,
                    batch_rows_max=1,
                ),
            )
        )

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: Context[Any, Any]
    ) -> pb.GetModelInfoResponse:
        return pb.GetModelInfoResponse(
            name="scripted",
            architecture="none",
            dtype="none",
            max_context_tokens=self.context_tokens,
        )

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context[Any, Any]
    ) -> pb.GetServerInfoResponse:
        return pb.GetServerInfoResponse(
            version="0", mode=pb.BATCHING_MODE_CONTINUOUS, max_batch_size=32, device="none"
        )

    async def GetLoad(
        self, request: pb.GetLoadRequest, context: Context[Any, Any]
    ) -> pb.GetLoadResponse:
        """`requests_rejected` counts the streams whose client went away."""
        return pb.GetLoadResponse(
            time_s=time.monotonic(),
            running=self.running,
            step_rows=self.running,
            step_padded_rows=self.running,
            output_tokens=self.output_tokens,
            requests_finished=self.finished,
            requests_rejected=self.cancelled,
            step_s=time.monotonic() - self.started_s,
        )

    async def Tokenize(
        self, request: pb.TokenizeRequest, context: Context[Any, Any]
    ) -> pb.TokenizeResponse:
        return pb.TokenizeResponse(token_ids=range(len(request.text.split())))

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context[Any, Any]
    ) -> pb.DetokenizeResponse:
        return pb.DetokenizeResponse(text="word " * len(request.token_ids))

    async def Abort(self, request: pb.AbortRequest, context: Context[Any, Any]) -> pb.AbortResponse:
        return pb.AbortResponse()

    async def Generate(
        self, request: pb.GenerateRequest, context: Context[Any, Any]
    ) -> pb.GenerateResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only streams are scripted")

    async def GenerateBatch(
        self, request: pb.GenerateBatchRequest, context: Context[Any, Any]
    ) -> pb.GenerateBatchResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only streams are scripted")


async def serve(scripted: Scripted, pem: bytes | None) -> None:
    """Run until SIGTERM."""
    server = grpc.aio.server()
    rpc.add_GenerationServiceServicer_to_server(scripted, server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    if pem is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pem, pem)]))
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(0.2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first-ms", type=float, default=Script.first_ms)
    parser.add_argument("--gap-ms", type=float, default=Script.gap_ms)
    parser.add_argument("--per-message", type=int, default=Script.per_message)
    parser.add_argument("--context-tokens", type=int, default=2048)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--token", default="")
    parser.add_argument("--certificate", type=Path, help="PEM file with certificate and key: TLS")
    given = parser.parse_args()
    script = Script(given.first_ms, given.gap_ms, given.per_message)
    scripted = Scripted(script, given.context_tokens, given.log, given.token)
    pem = given.certificate and given.certificate.read_bytes()
    asyncio.run(serve(scripted, pem))


if __name__ == "__main__":
    main()

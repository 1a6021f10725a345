"""The load generator's gRPC side: a few shared connections, one GenerateStream per generation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import grpc

from paceline.loadgen.access import Access
from paceline.loadgen.prompt import Prompt
from paceline.loadgen.timing import ServerTimings
from paceline.loadgen.trace_context import HEADER, Traces
from paceline.loadgen.wire import Said, Take, WireError
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

SAMPLING_OPTIONS = {"top_k", "top_p", "min_p"}

CHANNEL_OPTIONS = (
    # Without it all channels of a process to one address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A retry would hide what the server did and count two generations as one.
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
)
FINISH_NAMES = {
    number: name.removeprefix("FINISH_REASON_") for name, number in pb.FinishReason.items()
}


class GrpcWire:
    """A few connections shared by all users of one process, made after the fork and closed at its end.

    Raises AccessError where a file of `access` cannot be read, or a token would travel unprotected.
    """

    protocol = "grpc"

    def __init__(
        self,
        target: str,
        connections: int,
        access: Access | None = None,
        trace_share: float = 0.0,
    ) -> None:
        access = access or Access()
        self._traces = Traces(trace_share)
        self.target = target
        self._metadata = access.metadata()
        self._channels = [open_channel(target, access) for _ in range(connections)]
        self._stubs = [rpc.GenerationServiceStub(channel) for channel in self._channels]
        self._turns = itertools.cycle(self._stubs)

    def exchange(self, prompt: Prompt) -> GrpcExchange:
        """A call on the next connection, in turn."""
        metadata = self._metadata
        header, trace_id = self._traces.begin()
        if header:
            metadata = (*metadata, (HEADER, header))
        exchange = GrpcExchange(wire_request(prompt), next(self._turns), metadata, prompt)
        exchange.said.trace_id = trace_id
        return exchange

    def connect(self, timeout_s: float) -> str:
        try:
            for stub in self._stubs:
                stub.GetLoad(pb.GetLoadRequest(), timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return ""

    def context_tokens(self, timeout_s: float) -> int:
        request = pb.GetModelInfoRequest()
        try:
            info = self._stubs[0].GetModelInfo(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError:
            return 0
        return info.max_context_tokens

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


def open_channel(target: str, access: Access) -> grpc.Channel:
    """A connection of its own, encrypted where `access` says so. AccessError where it must be and is not."""
    access.check(target)
    if not access.secure:
        return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(access.roots())
    return grpc.secure_channel(target, credentials, options=CHANNEL_OPTIONS)


def wire_request(prompt: Prompt) -> pb.GenerateStreamRequest:
    """The message that asks for this prompt's work: token counts only matter, so ids are not sent back."""
    generation = pb.Generation(
        sampling=pb.Sampling(temperature=prompt.temperature, seed=prompt.seed),
        stopping=pb.Stopping(max_tokens=prompt.max_tokens, ignore_eos=prompt.ignore_eos),
        priority=prompt.priority,
    )
    for name, value in prompt.options:
        part = generation.sampling if name in SAMPLING_OPTIONS else generation.stopping
        if isinstance(value, list):
            getattr(part, name).extend(value)
        else:
            setattr(part, name, value)
    if prompt.prompt_ids is not None:
        generation.token_ids.ids.extend(prompt.prompt_ids)
    elif prompt.messages is not None:
        said = (pb.ChatMessage(role=role, content=content) for role, content in prompt.messages)
        generation.chat.messages.extend(said)
    else:
        generation.text = prompt.text or ""
    return pb.GenerateStreamRequest(generation=generation)


class Stream(Protocol):
    """What gRPC returns for a streaming call."""

    def __iter__(self) -> Iterator[pb.GenerateStreamResponse]: ...

    def cancel(self) -> bool: ...


class GrpcExchange:
    """One GenerateStream. Messages say how many tokens they hold and how many came before."""

    __slots__ = ("_keep_text", "_metadata", "_request", "_stream", "_stub", "said")

    def __init__(
        self,
        request: pb.GenerateStreamRequest,
        stub: rpc.GenerationServiceStub,
        metadata: tuple[tuple[str, str], ...],
        prompt: Prompt,
    ) -> None:
        self.said = Said()
        self._request = request
        self._stub = stub
        self._metadata = metadata
        self._keep_text = bool(prompt.turns)
        self._stream: Stream | None = None

    def run(self, timeout_s: float, take: Take) -> bool:
        said, keep_text, wanted = self.said, self._keep_text, True
        try:
            stream: Stream = self._stub.GenerateStream(
                self._request, timeout=timeout_s, metadata=self._metadata
            )
            self._stream = stream
            for message in stream:
                # First the tokens: nothing may delay their stamp.
                count = message.num_tokens
                if count:
                    text = message.text if keep_text else ""
                    wanted = take(count, message.offset, text)
                elif message.HasField("header"):
                    said.prompt_tokens = message.header.prompt_tokens
                if message.HasField("finish"):
                    said.finish = FINISH_NAMES[message.finish.reason]
                if message.HasField("summary"):
                    self._sum_up(message.summary)
                if not wanted and not said.finish:
                    stream.cancel()
                    return False
        except grpc.RpcError as error:
            raise WireError(error.code().name, error.details() or "") from None
        return True

    def cancel(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    def _sum_up(self, summary: pb.StreamSummary) -> None:
        usage, said = summary.usage, self.said
        said.prompt_tokens = usage.prompt_tokens or said.prompt_tokens
        said.output_tokens = usage.completion_tokens
        said.cached_tokens = usage.cached_tokens
        said.server = server_timings(summary.timings)


def server_timings(timings: pb.Timings) -> ServerTimings:
    """The server's own account of one request."""
    return ServerTimings(
        queue_ms=timings.queue_ms,
        prefill_ms=timings.prefill_ms,
        decode_ms=timings.decode_ms,
        ttft_ms=timings.ttft_ms,
        total_ms=timings.total_ms,
        batch_rows_mean=timings.batch_rows_mean,
    )

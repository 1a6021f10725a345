"""One streamed generation on the wire: sent, read message by message with exact stamps, ended or cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from paceline.loadgen.prompt import Prompt
from paceline.loadgen.timing import Record, ServerTimings
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

SAMPLING_OPTIONS = {"top_k", "top_p", "min_p"}
Clock = Callable[[], float]

CHANNEL_OPTIONS = (
    # Without it all channels of a process to one address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A retry would hide what the server did and count two generations as one.
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
)


class Channels:
    """A few connections shared by all users of one process, made after the fork and closed at its end."""

    def __init__(self, target: str, count: int) -> None:
        self.target = target
        self._channels = [
            grpc.insecure_channel(target, options=CHANNEL_OPTIONS) for _ in range(count)
        ]
        self._stubs = [rpc.GenerationServiceStub(channel) for channel in self._channels]
        self._turns = itertools.cycle(self._stubs)

    def stub(self) -> rpc.GenerationServiceStub:
        """The next connection's stub, in turn."""
        return next(self._turns)

    def connect(self, timeout_s: float) -> str:
        """Open every connection now, so that no measured call has to. What went wrong, or nothing."""
        try:
            for stub in self._stubs:
                stub.GetLoad(pb.GetLoadRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return ""

    def context_tokens(self, timeout_s: float) -> int:
        """Prompt and answer that the served model can hold together; 0 where the server does not say."""
        try:
            info = self._stubs[0].GetModelInfo(pb.GetModelInfoRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return 0
        return info.max_context_tokens

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


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


@dataclass(eq=False, slots=True)
class Call:
    """One generation in flight. `run` blocks until its status; `cut` ends it from another greenlet."""

    prompt: Prompt
    index: int  # place of its level in the sweep
    level: int
    phase: str
    clock: Clock
    status: str = ""
    details: str = ""
    was_cut: bool = False
    cancelled_by_plan: bool = False
    t_int: float | None = None
    t_send: float = 0.0
    t_end: float = 0.0
    _stream: Stream | None = None
    _last_s: float = 0.0
    _stamps_us: list[int] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _count: int = 0
    _gap: bool = False
    _prompt_tokens: int = 0
    _finish: str = ""
    _summary: pb.StreamSummary | None = None
    _answer: list[str] = field(default_factory=list)

    def run(self, stub: rpc.GenerationServiceStub, timeout_s: float) -> None:
        """Send and read to the end. A killed greenlet cancels the call and leaves it marked as cut."""
        request = wire_request(self.prompt)
        deadline_s = self.prompt.deadline_s
        timeout_s = timeout_s if deadline_s is None else min(timeout_s, deadline_s)
        self.t_send = self._last_s = self.clock()
        try:
            self._stream = stub.GenerateStream(request, timeout=timeout_s)
            for message in self._stream:
                self._take(message, self.clock())
                if self._has_enough():
                    self._leave()
                    break
            else:
                self.status = "OK"
        except grpc.RpcError as error:
            self.status, self.details = error.code().name, error.details() or ""
        finally:
            self.t_end = self.clock()
            if not self.status:
                self.cut()
                self.status = "CANCELLED"

    def cut(self) -> None:
        """End the call because the run ends: no error of the server's."""
        self.was_cut = True
        if self._stream is not None:
            self._stream.cancel()

    def _has_enough(self) -> bool:
        """Whether its reader leaves now, before the end, as planned."""
        after = self.prompt.cancel_after
        return after is not None and self._count >= after and not (self._finish or self.was_cut)

    def _leave(self) -> None:
        assert self._stream is not None, "a message came"
        self.cancelled_by_plan = True
        self.status = "CANCELLED"
        self._stream.cancel()

    def _take(self, message: pb.GenerateStreamResponse, now_s: float) -> None:
        if message.HasField("header"):
            self._prompt_tokens = message.header.prompt_tokens
        if message.num_tokens:
            self._gap |= message.offset != self._count
            # Delta of rounded times, not rounded delta: errors do not add up over a long stream.
            elapsed_us = round((now_s - self.t_send) * 1e6) - round(
                (self._last_s - self.t_send) * 1e6
            )
            self._stamps_us.append(elapsed_us)
            self._tokens.append(message.num_tokens)
            self._count += message.num_tokens
            self._last_s = now_s
        if self.prompt.turns and message.text:
            self._answer.append(message.text)
        if message.HasField("finish"):
            self._finish = pb.FinishReason.Name(message.finish.reason).removeprefix(
                "FINISH_REASON_"
            )
        if message.HasField("summary"):
            self._summary = message.summary

    @property
    def cut_off(self) -> bool:
        """Ended by `cut`, not by itself: one that came to its end just before is an ordinary one."""
        return self.was_cut and self.status != "OK"

    @property
    def failed(self) -> bool:
        """The server's fault: a status other than OK that neither `cut`, a planned cancel nor a deadline caused."""
        planned = self.was_cut or self.cancelled_by_plan or self.missed_deadline
        return self.status != "OK" and not planned

    @property
    def missed_deadline(self) -> bool:
        """The request's own deadline passed."""
        return self.status == "DEADLINE_EXCEEDED" and self.prompt.deadline_s is not None

    @property
    def ended(self) -> bool:
        """It came to the end that was planned for it, good or late."""
        return self.status == "OK" or self.cancelled_by_plan or self.missed_deadline

    @property
    def answer(self) -> str:
        """The text that came; kept only where a conversation goes on with it."""
        return "".join(self._answer)

    @property
    def tokens(self) -> int:
        """Output tokens that arrived."""
        return self._count

    def record(self, *, mode: str, worker: int) -> Record:
        """What happened, once `run` is over."""
        usage = self._summary.usage if self._summary is not None else pb.Usage()
        return Record(
            id=f"{mode}-{self.index}-{self.prompt.id}",
            mode=mode,
            level=self.level,
            phase=self.phase,
            worker=worker,
            t_send=self.t_send,
            t_end=self.t_end,
            status=self.status,
            cut=self.cut_off,
            stamps_us=self._stamps_us,
            tokens=self._tokens,
            prompt_tokens=usage.prompt_tokens or self._prompt_tokens,
            requested_tokens=self.prompt.max_tokens,
            output_tokens=usage.completion_tokens,
            finish=self._finish,
            cached_tokens=usage.cached_tokens,
            server=None if self._summary is None else server_timings(self._summary.timings),
            gap=self._gap or (self.status == "OK" and usage.completion_tokens != self._count),
            t_int=self.t_int,
            kind=self.prompt.label,
            priority=self.prompt.priority,
            deadline_s=self.prompt.deadline_s,
            cancelled_by_plan=self.cancelled_by_plan,
        )


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

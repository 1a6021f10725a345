"""One process of `streams.py`: streams in a closed loop on one event loop, and what each of them saw."""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from threading import Barrier
from typing import Any

import grpc
import grpc.aio

from paceline.v1 import generation_pb2 as pb
from paceline.v1.generation_pb2_grpc import GenerationServiceStub

READY_S = 120.0
_LOOK_S = 0.02  # how often a process looks whether every stream has had its counted requests
_FIRST_TOKEN = 3
_CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),  # else equal channels share one connection
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; `temperature` 0 is greedy."""

    prompt: tuple[int, ...]
    tokens: int
    temperature: float

    def message(self) -> pb.GenerateStreamRequest:
        return pb.GenerateStreamRequest(
            generation=pb.Generation(
                token_ids=pb.TokenIds(ids=self.prompt),
                sampling=pb.Sampling(temperature=self.temperature),
                stopping=pb.Stopping(max_tokens=self.tokens, ignore_eos=True),
            )
        )


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does. With `asks`, each stream sends one of them; else they are drawn, in [low, high] tokens."""

    target: str
    streams: int
    counted: int
    streams_per_channel: int
    asks: tuple[Ask, ...] = ()
    seed: int = 0
    vocab: int = 0
    prompt: tuple[int, int] = (0, 0)
    output: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Record:
    """One request that ended. Times are seconds of the machine's monotonic clock."""

    counted: bool
    asked: int
    tokens: int
    messages: int  # with tokens
    sent: float
    first: float  # first message with a token
    first_tokens: int
    last: float

    @property
    def tpot_s(self) -> float | None:
        """Seconds a token after the first message's; None where there is no such token."""
        later = self.tokens - self.first_tokens
        return (self.last - self.first) / later if later else None


@dataclass(slots=True)
class Worked:
    """What one process saw. `warm`: when each of its streams had ended its first request."""

    records: list[Record] = field(default_factory=list)
    stamps: list[tuple[float, int]] = field(default_factory=list)  # messages: when, how many tokens
    warm: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def tokens_between(self, begin: float, end: float) -> int:
        """Tokens that arrived in (begin, end]."""
        return sum(tokens for stamp, tokens in self.stamps if begin < stamp <= end)


_meeting: tuple[Barrier, Synchronized[int]] | None = None


def join(barrier: Barrier, left: Synchronized[int]) -> None:
    """Tells this process where all processes meet, and how many streams still have counted requests before them."""
    global _meeting
    _meeting = (barrier, left)


def work(share: Share) -> Worked:
    """Does a share. Starts together with all others."""
    assert _meeting is not None
    barrier, left = _meeting
    gc.disable()
    try:
        return asyncio.run(_worked(share, barrier, left))
    except BaseException:
        barrier.abort()  # nobody waits for a process that cannot come
        raise


async def _worked(share: Share, barrier: Barrier, left: Synchronized[int]) -> Worked:
    # Channels belong to the event loop that runs when they are made.
    return await _Worker(share, barrier, left).run()


class _Worker:
    def __init__(self, share: Share, barrier: Barrier, left: Synchronized[int]) -> None:
        self._share = share
        self._barrier = barrier
        self._left = left
        self._worked = Worked()
        count = -(-share.streams // share.streams_per_channel)
        self._channels = [grpc.aio.insecure_channel(share.target, _CHANNEL) for _ in range(count)]
        self._stubs: list[Any] = [GenerationServiceStub(channel) for channel in self._channels]

    async def run(self) -> Worked:
        await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        self._barrier.wait(READY_S)
        cpu, started = _cpu_s(), time.monotonic()
        streams = [asyncio.create_task(self._stream(i)) for i in range(self._share.streams)]
        await self._until_all_are_done(streams)
        for stream in streams:
            stream.cancel()
        outcomes = await asyncio.gather(*streams, return_exceptions=True)
        self._worked.cpu_s, self._worked.wall_s = _cpu_s() - cpu, time.monotonic() - started
        await asyncio.gather(*(channel.close() for channel in self._channels))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise RuntimeError(f"a stream failed: {outcome}") from outcome
        return self._worked

    async def _until_all_are_done(self, streams: list[asyncio.Task[None]]) -> None:
        """Until every stream, of every process, has had its counted requests, or one of these has failed."""
        waiting: set[asyncio.Task[None]] = set(streams)
        while self._left.value > 0 and waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION
            )
            if any(task.exception() for task in done):
                self._left.value = 0

    async def _stream(self, number: int) -> None:
        stub = self._stubs[number // self._share.streams_per_channel]
        if self._share.asks:
            await self._one(stub, self._share.asks[number], counted=True)
            self._finish_one()
            return
        for count, ask in enumerate(_drawn(self._share, number)):
            counted = 0 < count <= self._share.counted
            await self._one(stub, ask, counted)
            if count == 0:
                self._worked.warm = max(self._worked.warm, time.monotonic())
            if count == self._share.counted:
                self._finish_one()

    def _finish_one(self) -> None:
        with self._left.get_lock():
            self._left.value -= 1

    async def _one(self, stub: Any, ask: Ask, counted: bool) -> None:
        message = ask.message()
        stamps = self._worked.stamps
        first = last = 0.0
        tokens = messages = first_tokens = 0
        sent = time.monotonic()
        async for answer in stub.GenerateStream(message):
            made = answer.num_tokens
            if made:
                last = time.monotonic()
                stamps.append((last, made))
                if not tokens:
                    first, first_tokens = last, made
                tokens += made
                messages += 1
        record = Record(counted, ask.tokens, tokens, messages, sent, first, first_tokens, last)
        self._worked.records.append(record)


def _drawn(share: Share, number: int) -> Iterator[Ask]:
    """Requests without end, the same for the same seed and stream."""
    draw = random.Random(share.seed * 10_000 + number)
    while True:
        length, tokens = draw.randint(*share.prompt), draw.randint(*share.output)
        prompt = tuple(draw.randrange(_FIRST_TOKEN, share.vocab) for _ in range(length))
        yield Ask(prompt, tokens, 0.0)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

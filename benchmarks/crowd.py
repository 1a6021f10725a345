"""Readers of every kind, for as long as they are wanted: what soak and chaos have in common."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

HANGS_S = 120.0  # a call that takes so long has no end
_BACK_OFF_S = 0.05


@dataclass(slots=True)
class Seen:
    """What the crowd saw. `refused_late_s`: the longest from a kill to an UNAVAILABLE of a running call."""

    statuses: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    tokens: int = 0
    faults: list[str] = field(default_factory=list)
    broken: list[tuple[float, float]] = field(default_factory=list)  # begun, ended: UNAVAILABLE


class Crowd:
    """So many readers; each asks, one thing after the other, until it is told to stop.

    Args:
        patient: whether nobody cancels or sets a deadline, so that every call has to be answered.
    """

    def __init__(self, target: str, readers: int, seed: int, *, patient: bool = False) -> None:
        self.seen = Seen()
        self._target = target
        self._readers = readers
        self._seed = seed
        self._patient = patient
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Lets everybody finish what was begun."""
        self._stop.set()

    async def run(self) -> None:
        channels = [
            grpc.aio.insecure_channel(self._target, [("grpc.use_local_subchannel_pool", 1)])
            for _ in range(min(8, self._readers))
        ]
        await asyncio.gather(
            *(
                self._read(channels[number % len(channels)], random.Random(self._seed + number))
                for number in range(self._readers)
            )
        )
        for channel in channels:
            await channel.close()

    async def _read(self, channel: grpc.aio.Channel, chance: random.Random) -> None:
        stub: Any = rpc.GenerationServiceStub(channel)
        ways: list[Callable[[Any, random.Random], Any]] = [self._stream, self._stream, self._whole]
        if not self._patient:
            ways += [self._leaves, self._in_a_hurry]
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                await chance.choice(ways)(stub, chance)
                status = "OK"
            except grpc.aio.AioRpcError as error:
                status = error.code().name
            except asyncio.CancelledError:
                status = "CANCELLED"
            self.seen.statuses[status] += 1
            if status == "OK":
                self.seen.answered += 1
                continue
            if status == "UNAVAILABLE":
                self.seen.broken.append((begun, time.monotonic()))
            if time.monotonic() - begun >= HANGS_S:
                self.seen.faults.append(f"a call had no end after {HANGS_S:.0f} s")
            await asyncio.sleep(_BACK_OFF_S)

    async def _stream(self, stub: Any, chance: random.Random) -> None:
        generation = _generation(chance)
        got: Counter[int] = Counter()
        ends = 0
        request = pb.GenerateStreamRequest(generation=generation)
        async for message in stub.GenerateStream(request, timeout=HANGS_S):
            if message.num_tokens and message.offset != got[message.index]:
                self.seen.faults.append("tokens were lost or sent twice")
            got[message.index] += message.num_tokens
            ends += message.HasField("finish")
        self._check(generation, list(got.values()), ends)

    async def _whole(self, stub: Any, chance: random.Random) -> None:
        generation = _generation(chance)
        request = pb.GenerateRequest(generation=generation)
        result = (await stub.Generate(request, timeout=HANGS_S)).result
        tokens = [completion.num_tokens for completion in result.completions]
        self._check(generation, tokens, len(result.completions))

    async def _leaves(self, stub: Any, chance: random.Random) -> None:
        call = stub.GenerateStream(pb.GenerateStreamRequest(generation=_generation(chance)))
        for _ in range(chance.randint(0, 5)):
            await call.read()
        call.cancel()

    async def _in_a_hurry(self, stub: Any, chance: random.Random) -> None:
        request = pb.GenerateStreamRequest(generation=_generation(chance))
        async for _ in stub.GenerateStream(request, timeout=chance.random()):
            pass

    def _check(self, generation: pb.Generation, tokens: list[int], ends: int) -> None:
        wanted = generation.stopping.max_tokens
        if ends != generation.sampling.n or any(count != wanted for count in tokens):
            self.seen.faults.append(f"{tokens} tokens and {ends} ends for {generation}")
        self.seen.tokens += sum(tokens)


def _generation(chance: random.Random) -> pb.Generation:
    return pb.Generation(
        token_ids=pb.TokenIds(
            ids=[chance.randrange(33, 93) for _ in range(chance.randint(1, 300))]
        ),
        sampling=pb.Sampling(n=chance.choice((1, 1, 1, 3))),
        stopping=pb.Stopping(max_tokens=chance.randint(1, 120), ignore_eos=True),
        priority=chance.randint(-2, 2),
    )

"""Cancels: how soon the pages of a reader who left are free, and whether all pages are back after thousands of them.

    python benchmarks/cancels.py [--cancels 10000] [--streams 64] [--probes 400] [--out FILE] [SERVE FLAGS]

First a lone endless stream, again and again: its connection is closed at a random moment, and GetLoad is asked on
another one until no page is in use. The time counts from the close to the answer that says so; what one question takes
is the resolution. Then so many streams at once, each cancelled at a random moment: before it is queued, while it
waits, after some tokens, by the client, by its deadline or by losing its connection. At the end not a page may be in
use.

Prints a line of a table, and with --out writes JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from paceline.loadgen.environment import environment
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc
from served import MOCK, Server, line, served

ENDLESS = 100_000
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def endless(random_: random.Random, most_prompt: int = 200) -> pb.GenerateStreamRequest:
    """A stream that ends with the context."""
    ids = [random_.randrange(33, 93) for _ in range(random_.randint(1, most_prompt))]
    generation = pb.Generation(
        token_ids=pb.TokenIds(ids=ids),
        sampling=pb.Sampling(n=random_.choice((1, 1, 1, 2, 4))),
        stopping=pb.Stopping(max_tokens=ENDLESS, ignore_eos=True),
    )
    return pb.GenerateStreamRequest(generation=generation)


async def probe(target: str, question: Any, random_: random.Random) -> float:
    """Seconds from the close of a connection to the first load without pages."""
    channel = grpc.aio.insecure_channel(target, _OWN_CONNECTION)
    call = rpc.GenerationServiceStub(channel).GenerateStream(endless(random_))
    for _ in range(random_.randint(2, 6)):  # the header, then tokens
        await call.read()
    await asyncio.sleep(random_.random() * 0.02)
    assert (await question(pb.GetLoadRequest())).pages_used > 0
    begun = time.perf_counter()
    closing = asyncio.create_task(channel.close())
    while (await question(pb.GetLoadRequest())).pages_used:
        pass
    taken = time.perf_counter() - begun
    await closing
    return taken


async def probes(target: str, count: int, seed: int) -> dict[str, float]:
    """Quantiles in milliseconds."""
    random_ = random.Random(seed)
    async with grpc.aio.insecure_channel(target) as channel:
        question = rpc.GenerationServiceStub(channel).GetLoad
        for _ in range(20):
            await question(pb.GetLoadRequest())
        begun = time.perf_counter()
        for _ in range(100):
            await question(pb.GetLoadRequest())
        resolution = (time.perf_counter() - begun) / 100
        taken = sorted([await probe(target, question, random_) for _ in range(count)])
    return {
        "p50_ms": statistics.median(taken) * 1e3,
        "p99_ms": taken[min(count - 1, round(0.99 * count))] * 1e3,
        "most_ms": taken[-1] * 1e3,
        "resolution_ms": resolution * 1e3,
    }


class Crowd:
    """Readers who all leave early."""

    def __init__(self, target: str, cancels: int, seed: int) -> None:
        self._target = target
        self._left = cancels
        self._random = random.Random(seed)
        self.ways: dict[str, int] = {}
        self.statuses: dict[str, int] = {}

    async def run(self, streams: int) -> None:
        """Ends when the last one has left."""
        await asyncio.gather(*(self._reader() for _ in range(streams)))

    async def _reader(self) -> None:
        while self._left > 0:
            channel = grpc.aio.insecure_channel(self._target, _OWN_CONNECTION)
            stub = rpc.GenerationServiceStub(channel)
            for _ in range(self._random.randint(1, 20)):
                if self._left <= 0:
                    break
                self._left -= 1
                if await self._one(stub, channel):
                    break
            await channel.close()

    async def _one(self, stub: Any, channel: grpc.aio.Channel) -> bool:
        """One stream; whether the connection is gone with it."""
        way = self._random.choice(("at once", "soon", "tokens", "deadline", "connection"))
        self.ways[way] = self.ways.get(way, 0) + 1
        timeout = self._random.random() * 0.1 if way == "deadline" else None
        call = stub.GenerateStream(endless(self._random), timeout=timeout)
        try:
            if way == "soon":
                await asyncio.sleep(self._random.random() * 0.02)
            elif way in ("tokens", "connection"):
                for _ in range(self._random.randint(1, 10)):
                    await call.read()
            elif way == "deadline":
                async for _ in call:
                    pass
            if way == "connection":
                await channel.close()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.CancelledError):
            pass
        call.cancel()
        code = (await call.code()).name
        self.statuses[code] = self.statuses.get(code, 0) + 1
        return way == "connection"


def measure(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """Both parts, against an idle server."""
    baseline = server.idle()
    assert baseline is not None
    freed = asyncio.run(probes(server.target, options.probes, options.seed))
    crowd = Crowd(server.target, options.cancels, options.seed)
    begun = time.monotonic()
    asyncio.run(crowd.run(options.streams))
    took_s = time.monotonic() - begun
    after = server.idle()
    last = server.load()
    return {
        "freed": freed,
        "probes": options.probes,
        "cancels": options.cancels,
        "took_s": took_s,
        "ways": crowd.ways,
        "statuses": crowd.statuses,
        "pages_before": baseline.pages_used,
        "pages_leaked": last.pages_used,
        "running_left": last.running,
        "waiting_left": last.waiting,
        "idle_again": after is not None,
        "preemptions": last.preemptions - baseline.preemptions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cancels", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--probes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "flags", nargs="*", help="of `paceline serve`; without: a mock, 5 ms a step"
    )
    options = parser.parse_args()
    flags = options.flags or [*MOCK, "--frontends", "0"]
    with served(flags) as server:
        found = measure(server, options)
    freed = found["freed"]
    cells = (
        f"{found['pages_leaked']} pages leaked after {found['cancels']:,} cancels",
        f"freed after {freed['p50_ms']:.1f} ms (p50), {freed['p99_ms']:.1f} ms (p99)",
        " ".join(flags),
    )
    print(line(*cells))  # noqa: T201
    if options.out is not None:
        found |= {"environment": environment(), "flags": flags}
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if found["idle_again"] else 1)


if __name__ == "__main__":
    main()

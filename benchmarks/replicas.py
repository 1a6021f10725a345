"""What a second engine behind the port adds: tokens a second and TTFT, and whether conversations find their caches.

    python benchmarks/replicas.py [--replicas 1,2] [--streams 32] [--seconds 8] [-- SERVE FLAGS]

Engines of the mock compute sixteen rows each, a token of each every 50 ms, as a GPU would: processors are left for all
else. Twice as many readers as one engine has rows hold conversations of four turns, one after the other: each turn's
prompt is the one before it, its answer and 40 characters more, of a token each, after an opening of 400. So a turn but
the first finds its beginning where the turn before was computed: "found" is the share of them that did, but for less
than a page. Counted is what comes after a warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from typing import Any

import grpc

from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc
from served import Server, line, served

MOCK = ("--mock", "--mock-tokens-per-s", "20", "--max-batch-size", "16", "--frontends", "1")
WARM_UP_S = 4.0
TURNS, OPENING, QUESTION, ANSWER, PAGE = 4, 400, 40, 32, 32  # characters, which are tokens


class Readers:
    """Holds conversations, and counts while it is told to."""

    def __init__(self, stub: Any) -> None:
        self.tokens = 0
        self.ttfts_s: list[float] = []
        self.found: list[bool] = []
        self.counting = False
        self._stub = stub
        self._numbers = itertools.count()

    async def read(self) -> None:
        """One conversation after the other."""
        while True:
            text = f"conversation {next(self._numbers)} ".ljust(OPENING, ".")
            known = 0
            for turn in range(TURNS):
                answer, cached = await self._turn(text)
                if known and self.counting:
                    self.found.append(cached > known - PAGE)
                known = len(text)
                text += answer + f" {turn}".ljust(QUESTION, "?")

    async def _turn(self, text: str) -> tuple[str, int]:
        """The answer, and how many tokens of the prompt were found in a cache."""
        stopping = pb.Stopping(max_tokens=ANSWER, ignore_eos=True)
        generation = pb.Generation(text=text, stopping=stopping)
        begun, first, answer, cached = time.perf_counter(), True, "", 0
        async for message in self._stub.GenerateStream(
            pb.GenerateStreamRequest(generation=generation)
        ):
            answer += message.text
            cached = message.summary.usage.cached_tokens  # of the last message
            if message.num_tokens and first and self.counting:
                self.ttfts_s.append(time.perf_counter() - begun)
            first = first and not message.num_tokens
            self.tokens += message.num_tokens * self.counting
        return answer, cached


async def measure(server: Server, streams: int, seconds: float) -> list[str]:
    """A row of the table."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        readers = Readers(rpc.GenerationServiceStub(channel))
        tasks = [asyncio.create_task(readers.read()) for _ in range(streams)]
        await asyncio.sleep(WARM_UP_S)
        begun = time.perf_counter()
        readers.counting = True
        await asyncio.sleep(seconds)
        readers.counting = False
        took, after = time.perf_counter() - begun, server.load()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    percentiles = statistics.quantiles(readers.ttfts_s, n=100)
    shares = [each.running for each in after.replicas] or [after.running]
    return [
        f"{readers.tokens / took:,.0f}",
        f"{percentiles[49] * 1e3:,.0f} ms",
        f"{percentiles[98] * 1e3:,.0f} ms",
        f"{statistics.mean(readers.found):.0%}",
        " + ".join(map(str, shares)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--replicas", default="1,2")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("flags", nargs="*", help="of the servers, after --")
    options = parser.parse_args()
    write = sys.stdout.write
    write(line("replicas", "tokens/s", "TTFT p50", "p99", "found", "running at the end") + "\n")
    write(line(*["---:"] * 6) + "\n")
    for replicas in options.replicas.split(","):
        with served([*MOCK, "--replicas", replicas, *options.flags]) as server:
            row = asyncio.run(measure(server, options.streams, options.seconds))
        write(line(replicas, *row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

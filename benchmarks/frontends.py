"""What front-end processes carry: streams and tokens a second through 1..N of them, with an engine that costs nothing.

    python benchmarks/frontends.py [--frontends 1,2,4] [--streams 256] [--clients 4] [--step-ms 0] [--json]

A mock engine makes a token for each of 256 rows a step, as fast as it can or every STEP_MS. Client processes
hold the streams open one after the other, SECONDS after a warm-up. Besides what arrived a second the table has
what a second of a front end's and of the engine's processor time gave: that does not depend on how many
processors clients, front ends and engine had to share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import psutil
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from paceline.server.config import ServeConfig
from paceline.server.loader import Loaded
from paceline.server.mock import MockRunner
from paceline.server.rectangles import Buckets
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

ROWS = 256
WARM_UP_S = 2.0
ENGINE = "paceline.server.processes.engine"
FRONTEND = "paceline.server.processes.frontend"


def load_mock(_: ServeConfig) -> Loaded:
    """A model whose step takes `STEP_MS` of the environment."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    wrap: Any = PreTrainedTokenizerFast
    step_s = float(os.environ["STEP_MS"]) / 1e3
    runner = MockRunner(
        num_pages=ROWS * 64,
        max_context_tokens=1024,
        choose=lambda sequence: 34 + sequence.num_output % 60,  # letters
        on_step=lambda _: time.sleep(step_s),
        buckets=Buckets(rows=(1, 2, 4, 8, 16, 32, 64, 128, ROWS)),
    )
    return Loaded(runner, Tokenizer(wrap(tokenizer_object=inner)))


def serve(flags: list[str]) -> int:
    """The server, as a program."""
    from frontends import load_mock as importable
    from paceline.server import logs
    from paceline.server.serve import run
    from paceline.server.settings import read

    logs.configure("warning")
    return run(read(flags), importable)


@dataclass(frozen=True, slots=True)
class Counts:
    """What one client process got."""

    streams: int
    messages: int
    tokens: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.streams + other.streams,
            self.messages + other.messages,
            self.tokens + other.tokens,
        )


class Client:
    """Holds streams open until it is told to end; counts between `begin` and `end`."""

    def __init__(self, target: str, streams: int, tokens: int) -> None:
        self._target = target
        self._streams = streams
        stopping = pb.Stopping(max_tokens=tokens, ignore_eos=True)
        self._request = pb.GenerateStreamRequest(
            generation=pb.Generation(text="measure", stopping=stopping)
        )
        self._counts = [0, 0, 0]

    async def run(self, begin_s: float, seconds: float) -> Counts:
        # Many connections, for the kernel deals connections, not calls, to the front ends.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(self._target, options) for _ in range(self._streams)]
        tasks = [asyncio.create_task(self._hold(channel)) for channel in channels]
        await asyncio.sleep(begin_s)
        before = self._counts.copy()
        await asyncio.sleep(seconds)
        streams, messages, tokens = (b - a for a, b in zip(before, self._counts, strict=True))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()
        return Counts(streams, messages, tokens)

    async def _hold(self, channel: grpc.aio.Channel) -> None:
        stub: Any = rpc.GenerationServiceStub(channel)
        counts = self._counts
        while True:
            async for message in stub.GenerateStream(self._request):
                counts[1] += 1
                counts[2] += message.num_tokens
            counts[0] += 1


def drive(arguments: tuple[str, int, int, float, float]) -> Counts:
    """One client process."""
    target, streams, tokens, begin_s, seconds = arguments
    return asyncio.run(Client(target, streams, tokens).run(begin_s, seconds))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; rates are a second's, `cpu` of processor time."""

    frontends: int
    streams_per_s: float
    messages_per_s: float
    tokens_per_s: float
    tokens_per_message: float
    messages_per_frontend_cpu_s: float
    tokens_per_frontend_cpu_s: float
    tokens_per_engine_cpu_s: float
    frontend_cpus: float
    engine_cpus: float


def measure(frontends: int, options: argparse.Namespace) -> Row:
    """One server, measured."""
    command = [sys.executable, __file__, "--serve", "--port", "0", "--metrics-port", "none"]
    flags = ["--frontends", str(frontends), "--max-batch-size", str(ROWS)]
    flags += ["--max-step-tokens", "2048", "--log-level", "warning"]
    server = subprocess.Popen(
        [*command, *flags],
        env=os.environ | {"STEP_MS": str(options.step_ms)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        found = re.search(r" on (127\.0\.0\.1:\d+) ", server.stdout.readline())
        assert found is not None, "the server did not start"
        return _row(frontends, server.pid, found[1], options)
    finally:
        server.terminate()
        server.wait()


def _row(frontends: int, pid: int, target: str, options: argparse.Namespace) -> Row:
    share = options.streams // options.clients
    work = (target, share, options.tokens, WARM_UP_S, options.seconds)
    with multiprocessing.get_context("spawn").Pool(options.clients) as pool:
        running = pool.map_async(drive, [work] * options.clients)
        running.wait(WARM_UP_S + options.seconds / 4)  # past the clients' own start
        before, begun = _processor_s(pid), time.monotonic()
        tokens_before = _tokens(target)
        running.wait(options.seconds / 2)
        after, took = _processor_s(pid), time.monotonic() - begun
        tokens = _tokens(target) - tokens_before
        counts = sum(running.get(), Counts(0, 0, 0))
    engine, front = after[0] - before[0], after[1] - before[1]
    per_message = counts.tokens / max(1, counts.messages)
    return Row(
        frontends=frontends,
        streams_per_s=counts.streams / options.seconds,
        messages_per_s=counts.messages / options.seconds,
        tokens_per_s=counts.tokens / options.seconds,
        tokens_per_message=per_message,
        messages_per_frontend_cpu_s=tokens / per_message / front,
        tokens_per_frontend_cpu_s=tokens / front,
        tokens_per_engine_cpu_s=tokens / engine,
        frontend_cpus=front / took,
        engine_cpus=engine / took,
    )


def _processor_s(pid: int) -> tuple[float, float]:
    """Seconds that the engine and all front ends have computed."""
    totals = {ENGINE: 0.0, FRONTEND: 0.0}
    for child in psutil.Process(pid).children():
        for module in totals.keys() & set(child.cmdline()):
            times = child.cpu_times()
            totals[module] += times.user + times.system
    return totals[ENGINE], totals[FRONTEND]


def _tokens(target: str) -> int:
    """Tokens that the engine has made."""
    with grpc.insecure_channel(target) as channel:
        stub: Any = rpc.GenerationServiceStub(channel)
        made: int = stub.GetLoad(pb.GetLoadRequest(), timeout=30).output_tokens
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--frontends", default="1,2")
    parser.add_argument("--streams", type=int, default=ROWS)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--step-ms", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(int(each), options) for each in options.frontends.split(",")]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))  # noqa: T201
        return
    names = list(asdict(rows[0]))
    lines = [names, ["---:"] * len(names)]
    lines += [
        [f"{value:,.4g}" if value < 100 else f"{value:,.0f}" for value in asdict(row).values()]
        for row in rows
    ]
    for line in lines:
        print("| " + " | ".join(line) + " |")  # noqa: T201


if __name__ == "__main__":
    if "--serve" in sys.argv:
        sys.exit(serve(sys.argv[2:]))
    main()

"""A load driver for gRPC streams that costs little: closed loop, many processes, exact stamps.

    python benchmarks/streams.py --target 127.0.0.1:50051 --concurrency 1,16,64,256
    python benchmarks/streams.py --target 127.0.0.1:50051 --workload benchmarks/workloads/mixed512.jsonl

Prompts are random token ids; the lengths of prompts and outputs are uniform around a mean. Each stream ends one request
before the counted ones, then runs a fixed number of these, then more until every stream has had its own: so all counted
requests see the whole load. Prints one JSON line a level. With `--workload` all requests of the file are sent at once.

Where several processes share the server's port, the kernel spreads connections, not calls: every few streams have a
connection of their own. Only servers on this machine are loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import psutil

from paceline.client import Client
from stream_worker import READY_S, Ask, Share, Worked, join, work

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Plan:
    """One level: how much load, and of what."""

    target: str
    concurrency: int
    counted: int  # requests of each stream that count
    processes: int
    streams_per_channel: int


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    server = Server(arguments.server_pid)
    with Client(arguments.target) as client:
        vocab = client.model_info().vocab_size
    if arguments.workload is not None:
        lines = [json.loads(line) for line in arguments.workload.read_text().splitlines()]
        asks = [Ask(tuple(line["prompt_ids"]), line["max_tokens"], 0.0) for line in lines]
        _print(_file(arguments, asks, server))
        return
    for concurrency in (int(part) for part in arguments.concurrency.split(",")):
        counted = max(arguments.requests_per_stream, -(-arguments.min_requests // concurrency))
        processes = min(concurrency, arguments.processes or processes_for(concurrency))
        plan = Plan(
            arguments.target, concurrency, counted, processes, arguments.streams_per_channel
        )
        shares = _shares(plan, arguments, vocab)
        _print({"concurrency": concurrency} | measure(plan, shares, server))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="127.0.0.1:50051", help="a server on this machine")
    parser.add_argument("--concurrency", default="1,16,64,256", help="streams at once, by level")
    parser.add_argument("--requests-per-stream", type=int, default=10, help="counted ones")
    parser.add_argument("--min-requests", type=int, default=30, help="counted ones of a level")
    parser.add_argument("--prompt", type=int, default=128, help="mean prompt tokens")
    parser.add_argument("--output", type=int, default=128, help="mean output tokens")
    parser.add_argument("--spread", type=float, default=0.5, help="of both, to each side")
    parser.add_argument("--workload", type=Path, help="send this file at once instead")
    parser.add_argument("--processes", type=int, default=0, help="0: by concurrency and cores")
    parser.add_argument("--streams-per-channel", type=int, default=4)
    parser.add_argument(
        "--server-pid", type=int, help="whose CPU use, children included, to report"
    )
    arguments = parser.parse_args(argv)
    if arguments.target.rpartition(":")[0] not in LOOPBACK:
        parser.error(f"--target must be on this machine: one of {', '.join(LOOPBACK)}, and a port")
    return arguments


def processes_for(concurrency: int) -> int:
    """One for each 16 streams, but at most three of eight cores: the server needs the others."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(-(-concurrency // 16), cores * 3 // 8))


def _shares(plan: Plan, arguments: argparse.Namespace, vocab: int) -> list[Share]:
    """What each process does: its streams, as evenly as it goes."""
    lengths = tuple(
        (round(mean * (1 - arguments.spread)), round(mean * (1 + arguments.spread)))
        for mean in (arguments.prompt, arguments.output)
    )
    return [
        Share(
            plan.target,
            streams=_part(plan.concurrency, plan.processes, number),
            counted=plan.counted,
            streams_per_channel=plan.streams_per_channel,
            seed=1000 * plan.concurrency + number,
            vocab=vocab,
            prompt=lengths[0],
            output=lengths[1],
        )
        for number in range(plan.processes)
    ]


def measure(plan: Plan, shares: Sequence[Share], server: Server) -> dict[str, Any]:
    """Runs one level to its end and sums it up."""
    before = server.cpu_s()
    worked, wall_s = _run(shares, plan.concurrency)
    after = server.cpu_s()
    return summary(worked) | _costs(worked, before, after, wall_s) | {"processes": plan.processes}


def _file(arguments: argparse.Namespace, asks: list[Ask], server: Server) -> dict[str, Any]:
    """Sends all requests at once; throughput is from the first one sent to the last token."""
    processes = min(len(asks), arguments.processes or processes_for(len(asks)))
    shares = [
        Share(
            arguments.target,
            streams=len(asks[number::processes]),
            counted=1,
            streams_per_channel=arguments.streams_per_channel,
            asks=tuple(asks[number::processes]),
        )
        for number in range(processes)
    ]
    before = server.cpu_s()
    worked, wall_s = _run(shares, len(asks))
    after = server.cpu_s()
    records = [record for each in worked for record in each.records]
    tokens = sum(record.tokens for record in records)
    taken = max(r.last for r in records) - min(r.sent for r in records)
    return {
        "requests": len(records),
        "output_tokens": tokens,
        "exact": all(record.tokens == record.asked for record in records),
        "wall_s": taken,
        "output_tokens_per_s": tokens / taken,
        "processes": processes,
    } | _costs(worked, before, after, wall_s)


def _run(shares: Sequence[Share], streams: int) -> tuple[list[Worked], float]:
    """Every share in a process of its own, all from the same moment on."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(shares) + 1)
    left = context.Value("i", streams)  # streams that still have counted requests before them
    with ProcessPoolExecutor(len(shares), context, join, (barrier, left)) as pool:
        running = [pool.submit(work, share) for share in shares]
        with contextlib.suppress(BrokenBarrierError):  # then a process's result says why
            barrier.wait(READY_S)
        started = time.monotonic()
        worked = [each.result() for each in running]
        return worked, time.monotonic() - started


def summary(worked: Iterable[Worked]) -> dict[str, Any]:
    """Throughput in the steady window, latencies of the counted requests.

    The window is from when every stream had ended its first request to when the last counted request ended.
    """
    records = [record for each in worked for record in each.records]
    counted = [record for record in records if record.counted]
    begin = max(each.warm for each in worked)
    end = max(record.last for record in counted)
    tokens = sum(each.tokens_between(begin, end) for each in worked)
    ttft = sorted((record.first - record.sent) * 1e3 for record in counted)
    tpot = sorted(record.tpot_s * 1e3 for record in counted if record.tpot_s is not None)
    return {
        "requests": len(counted),
        "exact": all(record.tokens == record.asked for record in counted),
        "window_s": end - begin,
        "output_tok_s": tokens / (end - begin),
        "ttft_ms": _spread(ttft),
        "tpot_ms": _spread(tpot),
        "tokens_per_message": sum(r.tokens for r in counted) / sum(r.messages for r in counted),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles of sorted values."""
    return {"mean": statistics.fmean(values)} | {
        f"p{share}": values[min(len(values) - 1, len(values) * share // 100)] for share in (50, 99)
    }


def _costs(
    worked: Sequence[Worked], before: dict[str, float], after: dict[str, float], wall_s: float
) -> dict[str, Any]:
    """Cores used: a client process near 1.0 is the limit, and then the figures are not the server's."""
    used = [each.cpu_s / each.wall_s for each in worked]
    spent = [after[name] - before.get(name, 0.0) for name in after]
    return {
        "client_cores": sum(used),
        "client_busiest": max(used),
        "server_cores": [round(each / wall_s, 3) for each in sorted(spent, reverse=True)],
    }


class Server:
    """The processes of a server, for their CPU time. None: nothing is known."""

    def __init__(self, pid: int | None) -> None:
        self._root = None if pid is None else psutil.Process(pid)

    def cpu_s(self) -> dict[str, float]:
        """Seconds that each process has computed so far."""
        if self._root is None:
            return {}
        found = {}
        for process in (self._root, *self._root.children(recursive=True)):
            times = process.cpu_times()
            found[str(process.pid)] = times.user + times.system
        return found


def _part(whole: int, parts: int, number: int) -> int:
    return whole // parts + (number < whole % parts)


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

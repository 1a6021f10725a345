"""What TLS and bearer tokens cost: throughput with both over that in plaintext, at 32 streams.

    python benchmarks/secure.py [--mock] [--streams 32] [--seconds 20] [--rounds 3] [--tokens 128] [--out FILE]

Two servers stand side by side, one plain, one with TLS and tokens, and one client process measures them in turn,
ROUNDS times, the order reversed every other time. A stream is asked for when another ended. `--mock` serves
scripted tokens as fast as gRPC takes them, the worst case; without it the embedded model computes them. The ratio
is that of the medians. Processor time is the server's own, for every 1000 tokens. Needs the openssl command. Prints
tables, and with --out writes JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paceline.client import AsyncClient
from paceline.server.bearer import digest_of
from served import Server, line, served

_TOKEN = "a token of this benchmark alone"
_WARM_UP_S = 2.0


@dataclass(frozen=True, slots=True)
class Side:
    """A running server and how to reach it."""

    name: str
    server: Server
    access: dict[str, Any]

    def processor_s(self) -> float:
        """Seconds that its processes have computed."""
        times = [each.cpu_times() for each in self.server.processes()]
        return sum(each.user + each.system for each in times)


@dataclass(frozen=True, slots=True)
class Row:
    """One server, one round."""

    server: str
    tokens_per_s: float
    server_cpu_s_per_1000_tokens: float


def protection(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Flags of a server with TLS and a token, and what its clients need."""
    pem, key, tokens = folder / "server.pem", folder / "server.key", folder / "tokens"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"]
    command += ["subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    # Limits no stream ever meets, so that counting is part of what is measured.
    tokens.write_text(f"bench:{digest_of(_TOKEN).hex()} rate=1000000 concurrency=100000\n")
    flags = ["--tls-cert", str(pem), "--tls-key", str(key), "--tokens", str(tokens)]
    return flags, {"ca": pem, "token": _TOKEN}


async def measure(at: Side, options: argparse.Namespace) -> Row:
    """Keeps the streams busy; counts the tokens that arrive after a warm-up."""
    made = 0

    async def keep_busy(client: AsyncClient) -> None:
        nonlocal made
        while True:
            async with client.stream(
                "Once upon a time", max_tokens=options.tokens, ignore_eos=True
            ) as stream:
                async for chunk in stream:
                    made += chunk.num_tokens

    async with AsyncClient(at.server.target, **at.access) as client:
        tasks = [asyncio.create_task(keep_busy(client)) for _ in range(options.streams)]
        await asyncio.sleep(_WARM_UP_S)
        before, cpu_s, begun = made, at.processor_s(), time.perf_counter()
        await asyncio.sleep(options.seconds)
        tokens, took_s = made - before, time.perf_counter() - begun
        cpu_s = at.processor_s() - cpu_s
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return Row(at.name, tokens / took_s, 1000 * cpu_s / max(1, tokens))


def main() -> None:
    options = _arguments()
    flags = ["--max-batch-size", str(options.streams)]
    if options.mock:
        flags += ["--mock", "--mock-tokens-per-s", "0"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        secured, access = protection(Path(folder))
        both = [
            Side("plain", stack.enter_context(served(flags)), {}),
            Side("TLS and token", stack.enter_context(served([*flags, *secured])), access),
        ]
        rows = [
            asyncio.run(measure(at, options))
            for number in range(options.rounds)
            for at in (both if number % 2 == 0 else both[::-1])
        ]
    _write(rows, options)


def _write(rows: list[Row], options: argparse.Namespace) -> None:
    plain, secured = (_median(rows, name) for name in ("plain", "TLS and token"))
    ratio = secured.tokens_per_s / plain.tokens_per_s
    lines = [line("server", "tokens/s", "server CPU s per 1000 tokens"), "|---|---:|---:|"]
    lines += [
        line(row.server, f"{row.tokens_per_s:,.0f}", f"{row.server_cpu_s_per_1000_tokens:.3f}")
        for row in (*rows, plain, secured)
    ]
    print("\n".join(lines))  # noqa: T201
    print(f"\nThe last two lines are medians; TLS and token cost {1 - ratio:.1%} of throughput.")  # noqa: T201
    if options.out is not None:
        found = {"streams": options.streams, "mock": options.mock, "ratio": ratio}
        found |= {"rows": [asdict(row) for row in rows]}
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def _median(rows: list[Row], name: str) -> Row:
    of = [row for row in rows if row.server == name]
    return Row(
        name,
        statistics.median(row.tokens_per_s for row in of),
        statistics.median(row.server_cpu_s_per_1000_tokens for row in of),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mock", action="store_true")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()

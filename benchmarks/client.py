"""What the load generator itself can carry, against `paceline serve --mock`: streams, messages/s, CPU per message.

    python benchmarks/client.py [--processes 1,2,4] [--streams 64,128,256,512] [--seconds 10] [--frontends N]

The mock gives each stream 50 tokens a second. The load generator kept up where none of its processes was at a limit
(CPU, event loop) and the tokens came at their pace: one a message, as a server that is held up puts several into one.
One line for each number of streams is an asyncio client without Locust (`stream_worker.py`): what gevent costs.
Writes results/client.json and results/client.md. Run it on a machine that does nothing else: the mock needs cores of
its own, and at many streams front ends, which are processes of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import streams as asyncio_streams
from commands import PACELINE
from paceline.loadgen.client_health import client_figures, client_limits, read_health
from paceline.loadgen.command import command_line
from paceline.loadgen.environment import environment
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.recorder import read_requests
from paceline.loadgen.series import between
from paceline.loadgen.servers import free_port
from paceline.loadgen.timing import Record
from paceline.loadgen.window import Window, steady_window

RESULTS = Path(__file__).parent / "results"
PACE = 50.0  # tokens a second of one stream
ON_PACE = 0.98
ANSWER = 150  # tokens: three seconds at the pace


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; CPU is of the load generator's processes."""

    client: str
    processes: int
    streams: int
    tok_s: float
    messages_s: float
    cpu_us_per_message: float | None
    cpu_pct: tuple[float, ...]
    loop_lag_p99_ms: float | None
    of_pace: float  # tokens that came / tokens that the pace asks for
    limits: tuple[str, ...]

    @property
    def kept_up(self) -> bool:
        """Whether neither load generator nor mock held the load back."""
        return not self.limits and self.of_pace >= ON_PACE


def main(argv: Sequence[str] | None = None) -> None:
    options = _arguments(argv)
    rows: list[Row] = []
    with mock(max(options.streams), options.frontends) as (target, pid):
        for processes in options.processes:
            rows += _show(locust_rows(target, processes, options.streams, options.seconds))
        for level in options.streams:
            rows += _show([asyncio_row(target, pid, level, options.seconds)])
    found = {
        "environment": environment(),
        "load_average": os.getloadavg(),
        "settings": {k: v for k, v in vars(options).items() if k != "out"},
        "pace_tok_s": PACE,
        "rows": [asdict(row) | {"kept_up": row.kept_up} for row in rows],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "client.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "client.md").write_text(markdown(rows))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=_numbers, default=(1, 2, 4))
    parser.add_argument("--streams", type=_numbers, default=(64, 128, 256, 512))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each level")
    parser.add_argument("--frontends", type=int, default=0, help="processes of the mock's own")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


@contextlib.contextmanager
def mock(rows: int, frontends: int) -> Iterator[tuple[str, int]]:
    """The mock as a program: (address, process id)."""
    command = [*PACELINE, "serve", "--mock", "--mock-tokens-per-s", str(PACE)]
    command += ["--max-batch-size", str(rows), "--max-step-tokens", str(max(2048, 2 * rows))]
    command += ["--port", "0", "--metrics-port", "none", "--frontends", str(frontends)]
    command += ["--drain-timeout-s", "1", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r" serves mock on (\S+) ", server.stdout.readline())
            assert found is not None, "the mock did not start"
            yield found[1], server.pid
        finally:
            server.terminate()


def locust_rows(target: str, processes: int, levels: Sequence[int], seconds: float) -> list[Row]:
    """The load generator as `paceline bench` runs it, one level after the other."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        options = LoadOptions(
            target=target,
            workload=f"fixed:8:{ANSWER}",
            concurrency=tuple(levels),
            level_min_s=seconds,
            level_max_s=seconds,
            level_requests=0,
            level_warmup=0,
            drain_s=1.0,
            out=str(out),
        )
        port = free_port() if processes > 1 else None
        command = command_line(options, processes=processes, master_port=port)
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            raise SystemExit(f"Locust ended with {done.returncode}: {done.stderr[-2000:]}")
        _, records = read_requests(out)
        health = read_health(out)
    return [
        _row(processes, level, [r for r in records if r.level == level], health) for level in levels
    ]


def _row(processes: int, level: int, records: Sequence[Record], health: Any) -> Row:
    _, window, reason = steady_window(records, level)
    if window is None:
        raise SystemExit(f"{level} streams, {processes} processes: {reason}")
    client = client_figures(between(health, window.start_s, window.end_s))
    messages, tokens = arrived(records, window)
    return Row(
        client="gevent",
        processes=processes,
        streams=level,
        tok_s=tokens / window.seconds,
        messages_s=messages / window.seconds,
        cpu_us_per_message=client["cpu_pct"] * 1e4 * window.seconds / messages,
        cpu_pct=tuple(round(one["cpu_pct"], 1) for one in client["processes"]),
        loop_lag_p99_ms=client["loop_lag_p99_ms"],
        of_pace=tokens / window.seconds / (PACE * level),
        limits=tuple(client_limits(client)),
    )


def arrived(records: Sequence[Record], window: Window) -> tuple[int, int]:
    """(messages, tokens) that came in the window."""
    inside = [
        count
        for record in records
        for at, count in zip(record.arrivals_s, record.tokens, strict=True)
        if window.start_s <= at < window.end_s
    ]
    return len(inside), sum(inside)


def asyncio_row(target: str, pid: int, level: int, seconds: float) -> Row:
    """One process of the asyncio client that has no Locust around it."""
    counted = max(1, round(seconds * PACE / ANSWER))
    given = argparse.Namespace(prompt=8, output=ANSWER, spread=0.0)
    plan = asyncio_streams.Plan(target, level, counted, processes=1, streams_per_channel=128)
    shares = asyncio_streams._shares(plan, given, vocab=256)
    found = asyncio_streams.measure(plan, shares, asyncio_streams.Server(pid))
    messages_s = found["output_tok_s"] / found["tokens_per_message"]
    return Row(
        client="asyncio",
        processes=1,
        streams=level,
        tok_s=found["output_tok_s"],
        messages_s=messages_s,
        cpu_us_per_message=found["client_cores"] * 1e6 / messages_s,
        cpu_pct=(round(100 * found["client_busiest"], 1),),
        loop_lag_p99_ms=None,
        of_pace=found["output_tok_s"] / (PACE * level),
        limits=tuple(client_limits({"cpu_pct_busiest": 100 * found["client_busiest"]})),
    )


HEADINGS = (
    "Client",
    "Processes",
    "Streams",
    "Messages/s",
    "Tokens/message",
    "CPU µs/message",
    "CPU of each process",
    "Loop lag p99",
    "Kept up",
)


def markdown(rows: Sequence[Row]) -> str:
    """The table for docs/load-generator.md."""
    lines = ["| " + " | ".join(HEADINGS) + " |"]
    lines.append("| --- |" + " ---: |" * 7 + " --- |")
    return "\n".join([*lines, *(_line(row) for row in rows)]) + "\n"


def _line(row: Row) -> str:
    lag = "–" if row.loop_lag_p99_ms is None else f"{row.loop_lag_p99_ms:.1f} ms"
    cost = "–" if row.cpu_us_per_message is None else f"{row.cpu_us_per_message:.0f}"
    cells = (
        row.client,
        str(row.processes),
        str(row.streams),
        f"{row.messages_s:,.0f}",
        f"{row.tok_s / row.messages_s:.2f}",
        cost,
        ", ".join(f"{value:.0f} %" for value in row.cpu_pct),
        lag,
        _kept(row),
    )
    return "| " + " | ".join(cells) + " |"


def _kept(row: Row) -> str:
    if row.kept_up:
        return "yes"
    return "; ".join(row.limits) or f"the mock did not: {row.of_pace:.0%} of the pace came"


def _show(rows: list[Row]) -> list[Row]:
    for row in rows:
        sys.stdout.write(_line(row) + "\n")
        sys.stdout.flush()
    return rows


if __name__ == "__main__":
    main()

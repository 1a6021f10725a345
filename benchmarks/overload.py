"""Overload: what a server still does for its readers when five times as many come as it can serve.

    python benchmarks/overload.py [--seconds 60] [--times 0.7,1,5] [--queue-wait-s 1] [-- SERVE FLAGS]

The server's capacity comes first: requests a second in a closed loop that keeps its rows full. Then Poisson arrivals
at so many TIMES that rate, by the load generator's open loop, which sends nothing twice; each level on a server of its
own. Goodput is output tokens a second that arrived for requests that were answered whole or still ran, after the first
third of a level. TTFT is from the moment of the schedule, of requests that were admitted.

Asked for: goodput at the highest rate within 10 % of the best level's, and p99 TTFT there within twice that at
capacity. Prints a table and a verdict; with --out writes JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.loadgen.command import command_line
from paceline.loadgen.environment import environment
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.recorder import read_requests
from paceline.loadgen.timing import Record
from served import line, served

# Eight rows of 64 tokens at 50 tokens a second: about 6 requests/s, which leaves two cores for the load generator.
MOCK = ("--mock", "--mock-tokens-per-s", "50", "--max-batch-size", "8", "--frontends", "0")
WORKLOAD = "fixed:32:64"
_WARM_UP = 1 / 3  # of a level
KEPT, SLOWER = 0.9, 2.0


def load(target: str, workload: str, seconds: float, **options: Any) -> list[Record]:
    """What one run of the load generator recorded, with a level of so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        given = LoadOptions(
            target=target,
            workload=workload,
            level_min_s=seconds,
            level_max_s=seconds,
            out=str(out),
            **options,
        )
        log = subprocess.DEVNULL  # Locust's own table
        subprocess.run(command_line(given), check=True, stdout=log, stderr=log, cwd=folder)
        _, records = read_requests(out)
    return records


def capacity(target: str, workload: str, rows: int, seconds: float) -> float:
    """Requests a second that end while so many are always in flight."""
    records = load(
        target,
        workload,
        seconds,
        concurrency=(rows,),
        level_requests=0,
        drain_s=1.0,
    )
    begun = min(record.t_send for record in records)
    ends = [r.t_end for r in records if r.ok and r.t_end - begun > seconds * _WARM_UP]
    if len(ends) < 2:
        raise SystemExit("too few requests ended: give more --seconds")
    return (len(ends) - 1) / (max(ends) - min(ends))


def level(target: str, workload: str, rate: float, seconds: float) -> dict[str, Any]:
    """Figures of one rate."""
    records = load(
        target,
        workload,
        seconds,
        rates=(rate,),
        drain_s=30.0,
        max_outstanding=10_000,
    )
    begun = min(record.t_send for record in records)
    since, until = begun + seconds * _WARM_UP, max(record.t_send for record in records)
    kept = [record for record in records if record.ok or record.cut]
    tokens = sum(
        count
        for record in kept
        for at, count in zip(record.arrivals_s, record.tokens, strict=True)
        if since <= at < until
    )
    measured = [record for record in kept if since <= record.t_send < until]
    waits = sorted(s for r in measured if (s := r.ttft_scheduled_s) is not None)
    if not waits:
        raise SystemExit("too few requests were admitted: give more --seconds")
    return {
        "rate": rate,
        "sent": len(records),
        "statuses": dict(Counter(record.status for record in records)),
        "goodput_tok_s": tokens / (until - since),
        "admitted": len(measured),
        "ttft_p50_ms": _quantile(waits, 0.5) * 1e3,
        "ttft_p99_ms": _quantile(waits, 0.99) * 1e3,
    }


def _quantile(values: Sequence[float], q: float) -> float:
    return values[min(len(values) - 1, int(q * len(values)))]


def verdict(levels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the last level compares with the best and with the one at capacity."""
    last = levels[-1]
    at_capacity = min(levels, key=lambda each: abs(each["times"] - 1))
    goodput = last["goodput_tok_s"] / max(each["goodput_tok_s"] for each in levels)
    slower = last["ttft_p99_ms"] / at_capacity["ttft_p99_ms"]
    return {
        "goodput_kept": goodput,
        "ttft_p99_times": slower,
        "reached": goodput >= KEPT and slower <= SLOWER,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each level")
    parser.add_argument("--times", default="0.7,1,5")
    parser.add_argument("--workload", default=WORKLOAD)
    parser.add_argument("--rows", type=int, default=8, help="in flight when capacity is measured")
    parser.add_argument("--queue-wait-s", default="1", help="the server's --max-queue-wait-s")
    parser.add_argument("--out", type=Path)
    parser.add_argument("flags", nargs="*", help="of `paceline serve`; without: a mock")
    options = parser.parse_args()
    flags = [*(options.flags or MOCK), "--max-queue-wait-s", options.queue_wait_s]
    with served(flags) as server:
        most = capacity(server.target, options.workload, options.rows, options.seconds / 2)
    print(line("load", "requests/s", "goodput tokens/s", "TTFT p50 ms", "TTFT p99 ms", "refused"))  # noqa: T201
    levels = []
    for times in map(float, options.times.split(",")):
        with served(flags) as server:
            found = level(server.target, options.workload, times * most, options.seconds)
        levels.append({"times": times, **found})
        refused = found["statuses"].get("RESOURCE_EXHAUSTED", 0)
        cells = [f"{found[name]:,.1f}" for name in ("rate", "goodput_tok_s")]
        cells += [f"{found[name]:,.0f}" for name in ("ttft_p50_ms", "ttft_p99_ms")]
        print(line(f"{times:g}x", *cells, f"{refused / found['sent']:.0%}"), flush=True)  # noqa: T201
    said = verdict(levels)
    print(  # noqa: T201
        f"goodput kept: {said['goodput_kept']:.0%}; p99 TTFT against capacity: {said['ttft_p99_times']:.2f}x"
    )
    if options.out is not None:
        found = {"capacity_req_s": most, "levels": levels, "verdict": said, "flags": flags}
        options.out.write_text(json.dumps(found | {"environment": environment()}, indent=1) + "\n")
    sys.exit(0 if said["reached"] else 1)


if __name__ == "__main__":
    main()

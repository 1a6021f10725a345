"""Half an hour of everything at once, and whether memory stays what it was.

    python benchmarks/soak.py [--minutes 30] [--readers 48] [--frontends 1] [--out FILE]

Readers stream, ask for whole answers, leave in the middle and set deadlines that pass, more of them than the mock
engine has rows. The memory of the server's processes is noted every five seconds; its slope is that of a straight line
through what was noted after the first third. Ends with code 1 where the slope is over 1 MiB an hour by more than twice
its standard error, an answer is not whole, a status is not one of those that readers bring about, or a page is left
over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crowd import Crowd
from served import MOCK, Server, line, served

_EVERY_S = 5.0
_FLAT_MIB_H = 1.0
_EXPECTED = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope of the straight line with the least squares, and its standard error; at least three points."""
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    found = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - found * (x - mean_x)) ** 2 for x, y in points)
    return found, math.sqrt(rest / (n - 2) / spread)


async def soak(server: Server, crowd: Crowd, seconds: float) -> list[tuple[float, list[float]]]:
    """(seconds since the start, MiB of each process) every few seconds."""
    reading = asyncio.create_task(crowd.run())
    begun, samples = time.monotonic(), []
    while (now := time.monotonic() - begun) < seconds and not reading.done():
        samples.append((now, server.rss_each_mib()))
        await asyncio.sleep(_EVERY_S)
    crowd.stop()
    await reading
    return samples


def measure(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    crowd = Crowd(server.target, options.readers, options.seed)
    samples = asyncio.run(soak(server, crowd, options.minutes * 60))
    settled = [sample for sample in samples if sample[0] >= samples[-1][0] / 3]
    if len(settled) < 3:
        raise SystemExit("too short to tell a slope: give more --minutes")
    per_s, error = slope([(at, sum(each)) for at, each in settled])
    left = server.idle()
    seen = crowd.seen
    return {
        "minutes": options.minutes,
        "statuses": dict(seen.statuses),
        "tokens": seen.tokens,
        "faults": seen.faults[:20],
        "unexpected": sorted(seen.statuses.keys() - _EXPECTED),
        "rss_mib": samples,
        "slope_mib_h": per_s * 3600,
        "slope_error_mib_h": error * 3600,
        "pages_left": None if left is None else left.pages_used,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--readers", type=int, default=48)
    parser.add_argument("--frontends", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = ["--max-batch-size", "16", "--frontends", str(options.frontends)]
    with served([*MOCK, *rows]) as server:
        found = measure(server, options)
    flat = found["slope_mib_h"] - 2 * found["slope_error_mib_h"] <= _FLAT_MIB_H
    calls = sum(found["statuses"].values())
    memory = f"{found['slope_mib_h']:+.2f} ± {found['slope_error_mib_h']:.2f} MiB/h"
    print(line(f"{calls:,} calls in {options.minutes:g} min", memory, found["statuses"]))  # noqa: T201
    for fault in found["faults"] + found["unexpected"]:
        print(f"FAIL: {fault}")  # noqa: T201
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    whole = not found["faults"] and not found["unexpected"] and found["pages_left"] == 0
    sys.exit(0 if flat and whole else 1)


if __name__ == "__main__":
    main()

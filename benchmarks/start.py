"""Seconds from the command to SERVING, and the memory of a server that is ready, caches warm.

    python benchmarks/start.py [--starts 3] [--out FILE.json] [-- flags of the server]

The first start is not counted: it fetches, converts and compiles what later ones find in the user's cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from environment import machine
from served import served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("flags", nargs="*", help="of the server")
    arguments = parser.parse_args()
    starts = []
    for number in range(1 + arguments.starts):
        started = time.perf_counter()
        with served(arguments.flags) as server:
            ready_s = time.perf_counter() - started
            if number:
                starts.append({"serving_s": ready_s, "rss_mib": server.rss_mib()})
    found = {
        "machine": machine(),
        "flags": arguments.flags,
        "serving_s": statistics.median(start["serving_s"] for start in starts),
        "rss_mib": statistics.median(start["rss_mib"] for start in starts),
        "starts": starts,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()

"""Sends a server what nobody would send on purpose, and watches its statuses, its memory and its pages.

    python benchmarks/fuzz.py [--inputs 100000] [--seed 0] [--out FILE]

The server is the whole of `paceline serve` on a mock engine, a process of its own. Inputs are drawn by hypothesis:
valid messages with fields set to extremes, valid messages with bytes changed, and noise. An INTERNAL, an UNKNOWN, a
server that is gone or does not answer, or a page that is left over ends the run with code 1 and the input that did it.
Memory counts from the first tenth of the inputs, when all code has run and all buffers have their size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from fuzzing import FLAGS, FORBIDDEN, Input, inputs, send
from served import Server, line, served

_ROUND = 1000  # inputs between two looks at the memory


def run(server: Server, count: int, seed: int) -> dict[str, Any]:
    """Sends so many inputs. AssertionError, with the input, where one ends as none may."""
    channel = grpc.insecure_channel(server.target)
    statuses: Counter[str] = Counter()
    memory = [(0, server.rss_mib())]

    def one(case: Input) -> None:
        code = send(channel, case)
        statuses[code.name] += 1
        assert code not in FORBIDDEN, f"{case} ended with {code.name}"

    begun, sent = time.monotonic(), 0
    while sent < count:
        batch = min(_ROUND, count - sent)
        checked = settings(
            max_examples=batch,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seeded(seed + sent)(checked(given(inputs())(one)))()
        sent += batch
        memory.append((sent, server.rss_mib()))
    left = server.idle()
    channel.close()
    sent = sum(statuses.values())
    settled = [each for each in memory if each[0] >= count / 10]
    return {
        "inputs": sent,
        "statuses": dict(statuses),
        "seconds": time.monotonic() - begun,
        "rss_mib": memory,
        "grown_mib": settled[-1][1] - settled[0][1],
        "pages_left": None if left is None else left.pages_used,
        "alive": server.alive,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with served([*FLAGS, "--frontends", "0"]) as server:
        found = run(server, options.inputs, options.seed)
    statuses = ", ".join(f"{name} {count:,}" for name, count in sorted(found["statuses"].items()))
    print(line(f"{found['inputs']:,} inputs", statuses, f"{found['grown_mib']:+.1f} MiB"))  # noqa: T201
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if found["alive"] and found["pages_left"] == 0 else 1)


if __name__ == "__main__":
    main()

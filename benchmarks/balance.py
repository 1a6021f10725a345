"""How uneven servers get under ways of choosing one, by simulation: no server of ours runs in it.

    python benchmarks/balance.py [--servers 1000] [--rows 64] [--clients 200] [--use 0.8]

Requests come by a Poisson process, each to a client drawn at random. A server computes ROWS at once, first come, first
served, for as long as the answer is long: lognormal, with the mean as unit of time and a standard deviation of 1.
Printed for each way: the share of requests that had to wait for a row, the mean wait of all and the 99th percentile in
units of the mean length, and by how much the fullest server exceeded the mean at a random moment.

    round_robin   each client goes round all servers, as gRPC's policy does, from a server of its own on
    random        any
    two_choices   the emptier one of two drawn at random, with exact knowledge
    least_loaded  the emptiest one of all, with exact knowledge
    groups        gRPC's policy over groups of 8 servers, and the emptiest one of the group
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
from collections.abc import Callable

from served import line

WAYS = ("round_robin", "random", "two_choices", "least_loaded", "groups")
GROUP = 8
LENGTHS = 6.0  # mean lengths that are simulated after as many to fill up


class Fleet:
    """Servers as the moments at which their rows get free."""

    def __init__(self, servers: int, rows: int) -> None:
        self.rows = [[0.0] * rows for _ in range(servers)]
        self.load = [0] * servers  # requests that run or wait

    def take(self, server: int, now: float, length: float) -> float:
        """When the request ends that comes now."""
        end = max(now, self.rows[server][0]) + length
        heapq.heapreplace(self.rows[server], end)
        self.load[server] += 1
        return end


def chooser(way: str, fleet: Fleet, clients: int, draw: random.Random) -> Callable[[], int]:
    """Names the server of the next request."""
    count, load = len(fleet.load), fleet.load
    places = count // GROUP if way == "groups" else count
    turn = [draw.randrange(places) for _ in range(clients)]

    def next_place() -> int:
        client = draw.randrange(clients)
        turn[client] = (turn[client] + 1) % places
        return turn[client]

    match way:
        case "round_robin":
            return next_place
        case "random":
            return lambda: draw.randrange(count)
        case "two_choices":
            return lambda: min(draw.randrange(count), draw.randrange(count), key=load.__getitem__)
        case "groups":
            return lambda: min(
                range((first := next_place() * GROUP), first + GROUP), key=load.__getitem__
            )
        case _:
            return lambda: min(range(count), key=load.__getitem__)


def simulate(way: str, options: argparse.Namespace) -> tuple[float, float, float, float]:
    """Share that waited, mean wait, 99th percentile, fullest over mean."""
    draw = random.Random(0)
    fleet = Fleet(options.servers, options.rows)
    choose = chooser(way, fleet, options.clients, draw)
    rate = options.use * options.servers * options.rows
    sigma = math.sqrt(math.log(2))
    now, ends, waits, peaks = 0.0, list[tuple[float, int]](), list[float](), list[float]()
    while now < 2 * LENGTHS:
        now += draw.expovariate(rate)
        while ends and ends[0][0] <= now:
            fleet.load[heapq.heappop(ends)[1]] -= 1
        server, length = choose(), draw.lognormvariate(-(sigma**2) / 2, sigma)
        end = fleet.take(server, now, length)
        heapq.heappush(ends, (end, server))
        if now > LENGTHS:
            waits.append(max(0.0, end - length - now))
            if len(waits) % options.servers == 0:
                peaks.append(max(fleet.load) / statistics.fmean(fleet.load))
    waits.sort()
    waited = sum(wait > 1e-9 for wait in waits) / len(waits)
    p99 = waits[int(0.99 * len(waits))]
    return waited, statistics.fmean(waits), p99, statistics.fmean(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--servers", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--use", type=float, default=0.8, help="rows in use, on average")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    print(line("way", "waited", "mean wait", "p99 wait", "fullest / mean"))  # noqa: T201
    print(line(*["---"] * 5))  # noqa: T201
    for way in options.ways:
        waited, mean, p99, peak = simulate(way, options)
        print(line(way, f"{waited:.1%}", f"{mean:.3f}", f"{p99:.2f}", f"{peak:.2f}"))  # noqa: T201


if __name__ == "__main__":
    main()

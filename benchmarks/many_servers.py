"""What it costs a client to go round many servers: one server stands for all, on as many loopback addresses.

    python benchmarks/many_servers.py [--servers 1000]

Prints seconds until the first answer and until a server has been asked at each address, and what a connection with its
health watch takes of the client's and of the server's memory and of both processors.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import psutil

from paceline.client import Client
from served import served


def measure(servers: int) -> dict[str, float]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection is a file
    flags = ["--mock", "--frontends", "0", "--host", "0.0.0.0", "--insecure"]
    with served(flags) as server:
        port = server.target.rpartition(":")[2]
        targets = [f"127.0.{n // 250}.{n % 250 + 1}:{port}" for n in range(servers)]
        me, other = psutil.Process(), psutil.Process(server.process.pid)
        with Client(targets[0]) as client:
            client.load()
        mine, its = me.memory_info().rss, other.memory_info().rss
        used, begun = busy(me) + busy(other), time.monotonic()
        with Client(targets) as client:
            client.load()
            first = time.monotonic() - begun
            while connections(other) < servers:
                client.load()
            every = time.monotonic() - begun
            return {
                "servers": servers,
                "first_answer_s": round(first, 3),
                "all_connected_s": round(every, 2),
                "cpu_ms_each": round((busy(me) + busy(other) - used) / servers * 1e3, 2),
                "client_kib_each": round((me.memory_info().rss - mine) / servers / 1024, 1),
                "server_kib_each": round((other.memory_info().rss - its) / servers / 1024, 1),
            }


def connections(process: psutil.Process) -> int:
    return sum(each.status == "ESTABLISHED" for each in process.net_connections("tcp"))


def busy(process: psutil.Process) -> float:
    """Seconds of processor time."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--servers", type=int, default=1000)
    print(json.dumps(measure(parser.parse_args().servers)))  # noqa: T201


if __name__ == "__main__":
    main()

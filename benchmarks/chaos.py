"""Ten minutes at overload in which the engine is killed again and again, at moments that nobody can foresee.

    python benchmarks/chaos.py [--minutes 10] [--readers 96] [--every-s 15] [--out FILE]

Readers ask for more than the mock engine can make; the engine's process gets SIGKILL at random moments, on average
every so many seconds. What has to hold: every call ends, once; an answer is whole, and no token comes twice; a call
that breaks ends with UNAVAILABLE within a second of a kill, or of the restart that it waited for; the engine is
SERVING again within ten seconds, and those that the server's rule makes it wait after deaths in quick succession; at
the end no page is in use. Prints a line of a table; the exit code is 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crowd import Crowd
from paceline.server.processes.backoff import Backoff
from paceline.server.processes.keeper import BACKOFF_S
from served import MOCK, Server, line, served

ENGINE = "paceline.server.processes.engine"
SERVING = health_pb2.HealthCheckResponse.SERVING
_EXPECTED = {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
_BACK_S, _TOLD_S = 10.0, 1.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from a kill until health said SERVING again, and how many of them the server waits by its rule."""

    took_s: float
    backoff_s: float

    @property
    def back_s(self) -> float:
        return self.took_s - self.backoff_s


class Killer:
    """Kills engines, and notes how long the server was without one."""

    def __init__(self, server: Server, every_s: float, seed: int) -> None:
        self.kills: list[float] = []
        self.faults: list[str] = []
        self.restarts: list[Restart] = []
        self._backoff = Backoff(*BACKOFF_S)
        self._serving_since = time.monotonic()
        self._server = server
        self._every_s = every_s
        self._chance = random.Random(seed)

    async def run(self, seconds: float) -> None:
        """Ends after the last restart."""
        end = time.monotonic() + seconds
        async with grpc.aio.insecure_channel(self._server.target) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < end:
                await asyncio.sleep(self._chance.expovariate(1 / self._every_s))
                await self._kill_one(health)

    async def _kill_one(self, health: Any) -> None:
        for process in self._server.processes():
            if ENGINE in _command(process):
                process.kill()
        self.kills.append(killed := time.monotonic())
        # Health says so a little after the engine is ready: near the rule's edge we take the longer wait, never less.
        backoff_s = self._backoff.after(killed - self._serving_since)
        down = False
        while time.monotonic() - killed < backoff_s + 6 * _BACK_S:
            try:
                status = (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status
            except grpc.aio.AioRpcError as error:
                self.faults.append(f"health did not answer: {error.code().name}")
                await asyncio.sleep(1)
                continue
            down = down or status != SERVING
            if down and status == SERVING:
                self._serving_since = time.monotonic()
                self.restarts.append(Restart(self._serving_since - killed, backoff_s))
                return
            await asyncio.sleep(0.01)
        raise SystemExit("the server does not come back")


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return command


async def chaos(crowd: Crowd, killer: Killer, seconds: float) -> None:
    reading = asyncio.create_task(crowd.run())
    try:
        await killer.run(seconds)
    finally:
        crowd.stop()
        await reading


def measure(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    crowd = Crowd(server.target, options.readers, options.seed, patient=True)
    killer = Killer(server, options.every_s, options.seed)
    asyncio.run(chaos(crowd, killer, options.minutes * 60))
    seen = crowd.seen
    # A call that was running at a kill, and how long after it was told.
    told = [
        ended - max(kills)
        for begun, ended in seen.broken
        if (kills := [kill for kill in killer.kills if begun <= kill <= ended])
    ]
    left = server.idle()
    faults = seen.faults[:20] + killer.faults
    faults += [f"status {name}" for name in sorted(seen.statuses.keys() - _EXPECTED)]
    faults += [
        f"back after {each.took_s:.1f} s, {each.backoff_s:g} s of them by the rule"
        for each in killer.restarts
        if each.back_s > _BACK_S
    ]
    faults += ["pages are left over"] if left is None else []
    late = [s for s in told if s > _TOLD_S]
    faults += [f"{len(late)} calls were told after {max(late):.1f} s"] if late else []
    return {
        "kills": len(killer.kills),
        "restarts": [asdict(each) for each in killer.restarts],
        "back_s": max((each.back_s for each in killer.restarts), default=0.0),
        "backoff_s": max((each.backoff_s for each in killer.restarts), default=0.0),
        "statuses": dict(seen.statuses),
        "tokens": seen.tokens,
        "told_s": max(told, default=None),
        "faults": faults,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--readers", type=int, default=96)
    parser.add_argument("--every-s", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bounds = ["--max-batch-size", "16", "--max-queue-requests", "32", "--frontends", "1"]
    with served([*MOCK, *bounds]) as server:
        found = measure(server, options)
    told = "none broke" if found["told_s"] is None else f"told within {found['told_s']:.2f} s"
    back = (
        f"back within {found['back_s']:.1f} s, back-off of up to {found['backoff_s']:g} s excepted"
    )
    print(line(f"{found['kills']} kills", found["statuses"], told, back))  # noqa: T201
    for fault in found["faults"]:
        print(f"FAIL: {fault}")  # noqa: T201
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()

"""What a client sees of a dead engine: seconds from `kill -9` until calls end, health says so, and all is well again.

    python benchmarks/restart.py [--kills 3] [--streams 8] [--waiting 8] [--out FILE.json] [-- flags of the server]
    python benchmarks/restart.py --rank 1 -- --tensor-parallel 3    # kills another rank than the engine's own

A server with a front end runs the embedded model, or what the flags name. Each time, STREAMS streams have got a token
and WAITING requests have not when the engine is killed. Counted are those of the streams that ended in another way than
UNAVAILABLE, and those of the waiting requests that were not answered, or not as before the first kill (`changed`).
Prints medians, and all values, as JSON.

    unavailable_s    until the last of the running calls has ended with UNAVAILABLE
    not_serving_s    until a health watch said NOT_SERVING
    serving_s        until it said SERVING again
    replayed_s       until the last of the waiting requests was answered
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc
from served import served

ENGINE = "paceline.server.processes.engine"
SERVING = health_pb2.HealthCheckResponse.SERVING
LONG, SHORT = 1500, 8  # tokens: of a call that runs when the engine is killed, of one that waits
WAIT_S = 300.0
BETWEEN_S = 65.0  # so long a life makes the next restart as quick as the first one


class Health:
    """Notes when health changes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(channel)
        self._changed = threading.Condition()
        self._changes: list[tuple[float, int]] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def next_after(self, moment: float, serving: bool) -> float:
        """When health first said so after a moment."""
        with self._changed:
            return self._changed.wait_for(lambda: self._find(moment, serving), WAIT_S) or 0.0

    def _find(self, moment: float, serving: bool) -> float | None:
        times = (t for t, status in self._changes if t > moment and (status == SERVING) == serving)
        return next(times, None)

    def _watch(self) -> None:
        with contextlib.suppress(grpc.RpcError):  # the end: its channel is closed
            for response in self._stub.Watch(health_pb2.HealthCheckRequest()):
                with self._changed:
                    self._changes.append((time.monotonic(), response.status))
                    self._changed.notify_all()


class Restarts:
    """Kills the engine of a server under load."""

    def __init__(
        self, server: psutil.Process, channel: grpc.Channel, streams: int, waiting: int, rank: int
    ) -> None:
        self._server = server
        self._rank = rank
        self._stub: Any = rpc.GenerationServiceStub(channel)
        self._health = Health(channel)
        self._streams = streams
        self._waiting = waiting
        self._expected = _answer(self._stub.Generate.future(_generate(SHORT)))

    def kill(self) -> dict[str, float]:
        """One death: seconds from it until each event, and how many calls went another way than promised."""
        running = [self._begin() for _ in range(self._streams)]
        waiting = [self._stub.Generate.future(_generate(SHORT)) for _ in range(self._waiting)]
        while self._stub.GetLoad(pb.GetLoadRequest()).waiting < self._waiting:
            time.sleep(0.01)
        victim = self._victim()
        killed = time.monotonic()
        victim.kill()
        with ThreadPoolExecutor(self._streams + 1) as pool:
            ends = list(pool.map(_end, running))
        not_serving = self._health.next_after(killed, serving=False)
        serving = self._health.next_after(not_serving, serving=True)
        answers = [_answer(call) for call in waiting]
        return {
            "unavailable_s": max(moment for moment, _ in ends) - killed,
            "not_serving_s": not_serving - killed,
            "serving_s": serving - killed,
            "replayed_s": time.monotonic() - killed,
            "other_ends": sum(status is not grpc.StatusCode.UNAVAILABLE for _, status in ends),
            "lost": answers.count(None),
            "changed": sum(answer not in (None, self._expected) for answer in answers),
        }

    def _begin(self) -> Iterator[Any]:
        """A stream that has a token."""
        call = self._stub.GenerateStream(
            pb.GenerateStreamRequest(generation=_generate(LONG).generation)
        )
        while not next(call).num_tokens:
            pass
        return call  # type: ignore[no-any-return]

    def _victim(self) -> psutil.Process:
        """The engine, or one of the ranks it has started."""
        engine = next(child for child in self._server.children() if ENGINE in child.cmdline())
        return engine.children()[self._rank - 1] if self._rank else engine


def _generate(tokens: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        generation=pb.Generation(
            text="The sea",
            sampling=pb.Sampling(temperature=0.0),
            stopping=pb.Stopping(max_tokens=tokens, ignore_eos=True),
        )
    )


def _end(call: Iterator[Any]) -> tuple[float, grpc.StatusCode]:
    """When a stream ended, and how."""
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return time.monotonic(), error.code()
    return time.monotonic(), grpc.StatusCode.OK


def _answer(call: Any) -> str | None:
    """Its text, if it is whole."""
    try:
        result = call.result(WAIT_S).result
    except grpc.RpcError:
        return None
    return result.completions[0].text if result.usage.completion_tokens == SHORT else None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All deaths of one server."""
    flags = ["--frontends", "1", "--max-batch-size", str(options.streams), *options.flags]
    with served(flags) as server:
        model = server.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=30).name
        with grpc.insecure_channel(server.target, [("grpc.enable_retries", 0)]) as channel:
            process = psutil.Process(server.process.pid)
            restarts = Restarts(process, channel, options.streams, options.waiting, options.rank)
            deaths = []
            for death in range(options.kills):
                if death:
                    time.sleep(options.between_s)
                deaths.append(restarts.kill())
    medians = {name: statistics.median(each[name] for each in deaths) for name in deaths[0]}
    return {
        "model": model,
        "streams": options.streams,
        "waiting": options.waiting,
        "medians": medians,
        "deaths": deaths,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--waiting", type=int, default=8)
    parser.add_argument("--rank", type=int, default=0, help="whom to kill; 0: the engine")
    parser.add_argument("--between-s", type=float, default=BETWEEN_S)
    parser.add_argument("--out", type=Path)
    parser.add_argument("flags", nargs="*", help="flags of `paceline serve`, after --")
    options = parser.parse_args()
    text = json.dumps(measure(options), indent=2)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()

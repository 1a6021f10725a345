"""Sixteen slow and five fast streams from one gevent process, each on a connection of its own.

`head_of_line.py TARGET cured|bare` prints the seconds after which the fast streams had their first token. "bare" is
gRPC under gevent as its documentation shows it, "cured" what the load generator does at its start.
"""

from __future__ import annotations

import locust  # patches the process, as it does for the load generator

import json
import sys
import time

import gevent
from grpc.experimental.gevent import init_gevent

from paceline.loadgen.call import Call
from paceline.loadgen.grpc_wire import GrpcWire
from paceline.loadgen.prompt import Prompt
from paceline.loadgen.user import prepare_process

SLOW, FAST = 16, 5
SLOW_MS, FAST_MS = 3000.0, 20.0
AHEAD_S = 0.5  # by then every slow stream waits
TIME_LIMIT_S = 30.0


def main() -> None:
    target, how = sys.argv[1:]
    assert locust.__version__
    if how == "cured":
        prepare_process(SLOW + FAST)
    else:
        init_gevent()
    wire = GrpcWire(target, SLOW + FAST)
    slow = [_call(f"slow{number}", SLOW_MS) for number in range(SLOW)]
    fast = [_call(f"fast{number}", FAST_MS) for number in range(FAST)]
    running = [gevent.spawn(call.run, wire, TIME_LIMIT_S) for call in slow]
    gevent.sleep(AHEAD_S)
    running += [gevent.spawn(call.run, wire, TIME_LIMIT_S) for call in fast]
    gevent.joinall(running, raise_error=True)
    assert all(call.status == "OK" for call in [*slow, *fast])
    sys.stdout.write(json.dumps([call.record(mode="m", worker=0).ttft_s for call in fast]))
    wire.close()


def _call(name: str, first_ms: float) -> Call:
    prompt = Prompt(name, json.dumps({"first_ms": first_ms}), max_tokens=2)
    return Call(prompt, 0, SLOW + FAST, "measure", time.perf_counter)


if __name__ == "__main__":
    main()

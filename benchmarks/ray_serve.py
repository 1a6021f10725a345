"""What Ray Serve in front of Paceline costs and does: its proxy's overhead, a replica that is killed, a second one.

    python benchmarks/ray_serve.py [--what overhead kill scale] [--proxy python|haproxy|none] [--users 24] [-- FLAGS]

FLAGS are those of the replicas (default: a mock that makes 20 tokens a second for each of 8 rows). The load is Locust
with this project's locustfile. Prints one JSON object.

    overhead  levels of users, one after the other; with `--proxy none` on `paceline serve`
    kill      two replicas; one gets signal 9 in the middle
    scale     one replica, more load than it has rows for, and Serve's own autoscaling to two
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from served import served

ROOT = Path(__file__).parent.parent
ROWS = 8
MOCK = ["--mock", "--mock-tokens-per-s", "20", "--max-batch-size", str(ROWS)]
WORKLOAD = "fixed:32:32"
PORT = 50151
REPLICA = "ray::ServeReplica"
SETTLE_S = 1.0  # after a change and before the end, not counted


@contextlib.contextmanager
def on_ray(haproxy: bool) -> Iterator[str]:
    """The target of what is deployed on a Ray of its own."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": str(int(haproxy)),
        "RAY_worker_niceness": "0",  # as a server of ours; Ray's default is 15
    }
    import ray
    from ray import serve
    from ray.serve.config import gRPCOptions

    from paceline.server.ray_serve import SERVICERS

    # One for each replica: so many workers are started beforehand.
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        offered = gRPCOptions(port=PORT, grpc_servicer_functions=SERVICERS)
        serve.start(http_options={"port": PORT + 1}, grpc_options=offered)
        yield f"127.0.0.1:{PORT}"
    finally:
        serve.shutdown()
        ray.shutdown()


def deploy(flags: list[str], **options: Any) -> None:
    """Replicas with these flags, and with these options of Serve's; those of before are gone."""
    from ray import serve

    from paceline.server.ray_serve import deployment

    with contextlib.suppress(Exception):
        serve.delete("paceline")
    options |= {"graceful_shutdown_timeout_s": 2, "graceful_shutdown_wait_loop_s": 0.2}
    serve.run(deployment(flags).options(**options).bind(flags), name="paceline")


def replicas() -> list[psutil.Process]:
    """The processes of those that this Ray started."""
    mine = psutil.Process().children(recursive=True)
    return [process for process in mine if process.name().startswith(REPLICA[:15])]


def load(target: str, folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Locust, under way."""
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadgen" / "locustfile.py")]
    command += ["--headless", "--target", target, "--workload", WORKLOAD, "--out", str(folder)]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def records(folder: Path) -> list[dict[str, Any]]:
    """All requests of a run."""
    lines = [line for path in folder.glob("requests.*.jsonl") for line in path.open()]
    return [each for line in lines if "t_send" in (each := json.loads(line))]


def level(requests: list[dict[str, Any]]) -> dict[str, float]:
    """What the requests of a level saw, its opening wave left out where others came. Times are milliseconds."""
    begun = [each for each in requests if each["stamps_us"]]
    seen = [each for each in begun if each["phase"] != "warmup"] or begun
    ended = [each for each in seen if each["output_tokens"] > each["tokens"][0]]
    first, last = min(r["t_send"] for r in begun), max(r["t_end"] for r in begun)
    return {
        "ok": sum(each["status"] == "OK" and not each["cut"] for each in requests),
        "failed": sum(each["status"] != "OK" and not each["cut"] for each in requests),
        "ttft_p50": round(statistics.median(each["stamps_us"][0] / 1e3 for each in seen), 1),
        "tpot_p50": round(
            statistics.median(
                sum(each["stamps_us"][1:]) / 1e3 / (each["output_tokens"] - each["tokens"][0])
                for each in ended
            ),
            2,
        ),
        "tokens_per_s": rate(begun, first + 1, last - 1),
    }


def overhead(target: str, levels: list[int]) -> dict[str, Any]:
    """Each level of users on its own."""
    arguments = ["--concurrency", ",".join(map(str, levels))]
    arguments += ["--level-min-s", "4", "--level-max-s", "7"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        load(target, out, arguments).wait()
        every = records(out)
    return {str(n): level([each for each in every if each["level"] == n]) for n in levels}


def over_time(target: str, options: argparse.Namespace, change: Any) -> dict[str, Any]:
    """A steady load of users for so many seconds; `change` is called once it is under way and says when it was done.

    Its moments are of `time.perf_counter`, as Locust's are.
    """
    arguments = ["--users", str(options.users), "--spawn-rate", "1000"]
    arguments += ["--run-time", f"{options.seconds}s", "--level-max-s", str(options.seconds)]
    arguments += ["--level-min-s", str(options.seconds)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        locust = load(target, out, arguments)
        while not any(out.glob("requests.*.jsonl")):
            time.sleep(0.1)
        begun = time.perf_counter()
        before, after = change(begun)
        locust.wait()
        every = records(out)
    ended = max(each["t_send"] for each in every)
    return {
        "statuses": dict(collections.Counter(r["status"] for r in every if not r["cut"])),
        "ok_but_short": sum(r["status"] == "OK" and not r["finish"] for r in every),
        "change_after_s": round(before - begun, 1),
        "settled_after_s": round(after - begun, 1),
        "tokens_per_s_before": rate(every, begun + 2, before),
        "tokens_per_s_after": rate(every, after + SETTLE_S, ended - SETTLE_S),
        "tokens_each_s": [rate(every, begun + s, begun + s + 1) for s in range(options.seconds)],
    }


def rate(requests: list[dict[str, Any]], begin: float, end: float) -> float:
    """Tokens a second that arrived between two moments."""
    tokens = 0
    for each in requests:
        at = each["t_send"]
        for wait_us, count in zip(each["stamps_us"], each["tokens"], strict=True):
            at += wait_us / 1e6
            tokens += count if begin <= at < end else 0
    return round(tokens / (end - begin), 1) if end > begin else 0.0


def kill(begun: float) -> tuple[float, float]:
    """Signal 9 for one replica; when, and when there were two that serve again."""
    from ray import serve

    time.sleep(10)
    old = {replica.pid for replica in replicas()}
    killed = time.perf_counter()
    os.kill(min(old), signal.SIGKILL)
    while {replica.pid for replica in replicas()} <= old or running(serve.status()) < 2:
        time.sleep(0.2)
    return killed, time.perf_counter()


def scale(begun: float) -> tuple[float, float]:
    """Waits for the second replica; when Serve decided, and when it served."""
    from ray import serve

    while len(replicas()) < 2:
        time.sleep(0.2)
    decided = time.perf_counter()
    while running(serve.status()) < 2:
        time.sleep(0.2)
    return decided, time.perf_counter()


def running(status: Any) -> int:
    """Replicas that serve."""
    states = status.applications["paceline"].deployments["Paceline"].replica_states
    return int(states.get("RUNNING", 0))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    many = [*MOCK, "--max-batch-size", str(max(options.levels))]
    if options.proxy == "none":
        with served([*many, "--frontends", "0"]) as server:
            return {"overhead": overhead(server.target, options.levels)}
    with on_ray(options.proxy == "haproxy") as target:
        return {what: of(what, target, many, options) for what in options.what}


def of(what: str, target: str, many: list[str], options: argparse.Namespace) -> dict[str, Any]:
    match what:
        case "overhead":
            deploy(many, max_ongoing_requests=2 * max(options.levels))
            return overhead(target, options.levels)
        case "kill":
            deploy(options.flags or MOCK, num_replicas=2)
            return over_time(target, options, kill)
        case _:
            auto = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": ROWS}
            auto |= {"upscale_delay_s": 5, "look_back_period_s": 5, "metrics_interval_s": 2}
            deploy(options.flags or MOCK, autoscaling_config=auto)
            return over_time(target, options, scale)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--what", nargs="+", choices=("overhead", "kill", "scale"), default=["overhead"]
    )
    parser.add_argument("--proxy", choices=("python", "haproxy", "none"), default="python")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("flags", nargs="*", help="flags of `paceline serve`, after --")
    options = parser.parse_args()
    print(json.dumps(vars(options) | {"result": measure(options)}))  # noqa: T201


if __name__ == "__main__":
    main()

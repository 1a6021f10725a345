"""Where decode steps spend the device's time, and whether the host ever waits for it.

    python benchmarks/profile_gpu.py 1,64 --dummy-weights smollm2-135m --dtype bfloat16 --max-batch-size 256

The first argument is numbers of rows, the others are `paceline batch`'s flags. For each it runs so many equal requests,
profiles 50 steps in the middle, and prints one JSON line: kernels by their share, calls by which the host waits or
copies, per step, the time that the engine's thread spends outside of the driver's calls (planning, staging, applying,
delivering), and the share of the time in which the device computed. Steps take longer under the profiler.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from driving import Loaded

STEPS = 50
_PROMPT = 64
_LEAD = 24  # steps with every row before the profile begins
_TOP = 15
# The host stands until the device is done. Waiting for an event blocks too, but only until that event has passed.
SYNCHRONISING = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "hipStreamSynchronize",
    "hipDeviceSynchronize",
    "hipEventSynchronize",
    "hipMemcpy",
)
# Its calls wait where the device is busy: none of that is the host's own work.
DRIVER = ("cuda", "cu", "hip")
WATCHED = (
    *SYNCHRONISING,
    "cudaMemcpyAsync",
    "cudaLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that the profiler saw. Times are in nanoseconds."""

    name: str
    on_device: bool
    start: int
    duration: int


def main(argv: list[str]) -> None:
    loaded = Loaded(argv[1:])
    for rows in argv[0].split(","):
        print(json.dumps(measure(loaded, int(rows))), flush=True)  # noqa: T201
    loaded.close()


def measure(loaded: Loaded, rows: int) -> dict[str, Any]:
    """The summary of `STEPS` decode steps of `rows` rows."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities):  # whatever the profiler sets up once, and on which thread
        torch.ones(1)
    profiler = profile(activities=activities)
    seen = 0

    def on_step(tokens: int) -> None:
        nonlocal seen
        seen += tokens == rows
        if tokens == rows and seen == _LEAD:
            profiler.start()
        elif tokens == rows and seen == _LEAD + STEPS:
            profiler.stop()

    # Rows that read their prompts first also end first.
    spare = -(-rows * _PROMPT // max(1, loaded.options.max_step_tokens - rows))
    output = _LEAD + STEPS + 16 + 2 * spare
    loaded.drive([loaded.request(f"{rows}-{i}", _PROMPT, output) for i in range(rows)], on_step)
    if seen < _LEAD + STEPS:
        raise RuntimeError(f"only {seen} steps had all {rows} rows")
    return {"rows": rows, "steps": STEPS} | summary(events(profiler), STEPS)


def events(profiler: Any) -> list[Event]:
    """All that was recorded."""
    found = profiler.profiler.kineto_results.events()
    cpu = torch._C._autograd.DeviceType.CPU
    return [Event(e.name(), e.device_type() != cpu, e.start_ns(), e.duration_ns()) for e in found]


def summary(found: Iterable[Event], steps: int) -> dict[str, Any]:
    """Kernels, waiting calls and the busy share. Where nothing ran on a device, operators stand for kernels."""
    found = list(found)
    if not found:
        raise RuntimeError(
            "the profiler saw nothing: on a CPU, torch must compute (--runtime torch)"
        )
    device = [event for event in found if event.on_device]
    host = [event for event in found if not event.on_device]
    timed = device or host
    driver = [event for event in host if event.name.startswith(DRIVER)]
    first, last = span(host or device)
    own = (last - first) - covered(driver)
    begin, end = span(timed)
    totals: defaultdict[str, int] = defaultdict(int)
    counts: Counter[str] = Counter()
    for event in timed:
        totals[event.name] += event.duration
        counts[event.name] += 1
    whole = sum(totals.values())
    top = sorted(totals.items(), key=lambda item: -item[1])[:_TOP]
    calls = Counter(event.name for event in host if event.name in WATCHED)
    return {
        "window_ms_per_step": (end - begin) / steps / 1e6,
        "device_busy_share": covered(device) / (end - begin) if device else None,
        "device_events_per_step": len(device) / steps,
        "top": [
            {
                "name": name[:120],
                "share": total / whole,
                "calls_per_step": counts[name] / steps,
                "us_per_call": total / counts[name] / 1e3,
            }
            for name, total in top
        ],
        "host_calls_per_step": {name: count / steps for name, count in sorted(calls.items())},
        "host_own_ms_per_step": own / steps / 1e6 if driver else None,
        "synchronising_calls_per_step": sum(calls[name] for name in SYNCHRONISING) / steps,
    }


def span(found: Iterable[Event]) -> tuple[int, int]:
    """When the first of the events began and the last one ended."""
    found = list(found)
    return min(e.start for e in found), max(e.start + e.duration for e in found)


def covered(found: Iterable[Event]) -> int:
    """Nanoseconds in which at least one of the events was under way."""
    total, reached = 0, 0
    for event in sorted(found, key=lambda event: event.start):
        end = event.start + event.duration
        total += max(0, end - max(reached, event.start))
        reached = max(reached, end)
    return total


if __name__ == "__main__":
    main(sys.argv[1:])

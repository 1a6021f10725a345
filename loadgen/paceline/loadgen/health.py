"""How this process of the load generator fares: it must not be the limit of what it measures."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import gevent

TICK_S = 0.02
SAMPLE_S = 0.5


class HealthSampler:
    """Owns `<folder>/client.<worker>.jsonl`. One greenlet wakes up every 20 ms and writes twice a second.

    A line holds `t` (the records' clock), `cpu_pct` of one core with all of the process's threads, `lag_ms`: how late
    each wake-up of that half second was, `gc_ms`: the garbage collector's pauses, `pool_busy` of `pool_max` threads.
    """

    def __init__(self, folder: Path, worker: int, *, clock: Callable[[], float]) -> None:
        self._worker = worker
        self._clock = clock
        self._file: TextIO = (folder / f"client.{worker}.jsonl").open("x", encoding="utf-8")
        self._pauses = Pauses(clock)
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        gc.callbacks.append(self._pauses)
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Close the file; safe to call twice."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
            gc.callbacks.remove(self._pauses)
        self._file.close()

    def _run(self) -> None:
        while True:
            self._write(self._sample())

    def _sample(self) -> dict[str, Any]:
        begun_s, cpu_s, lags_ms = self._clock(), time.process_time(), list[float]()
        now_s = begun_s
        while now_s - begun_s < SAMPLE_S:
            due_s = now_s + TICK_S
            gevent.sleep(TICK_S)
            now_s = self._clock()
            lags_ms.append(round(max(0.0, now_s - due_s) * 1e3, 2))
        pool = gevent.get_hub().threadpool
        return {
            "t": now_s,
            "worker": self._worker,
            "pid": os.getpid(),
            "cpu_pct": round((time.process_time() - cpu_s) / (now_s - begun_s) * 100, 1),
            "lag_ms": lags_ms,
            "gc_ms": self._pauses.taken(),
            "pool_busy": len(pool),
            "pool_max": pool.maxsize,
        }

    def _write(self, sample: dict[str, Any]) -> None:
        self._file.write(json.dumps(sample, separators=(",", ":")) + "\n")
        self._file.flush()


class Pauses:
    """Times the garbage collector: a callback for `gc.callbacks`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun_s = 0.0
        self._ms: list[float] = []

    def __call__(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._begun_s = self._clock()
        else:
            self._ms.append(round((self._clock() - self._begun_s) * 1e3, 3))

    def taken(self) -> list[float]:
        """Pauses since the last call, in milliseconds."""
        pauses, self._ms = self._ms, []
        return pauses

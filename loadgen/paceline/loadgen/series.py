"""The server's own figures over time: polls GetLoad beside the load, and answers questions about the samples.

A sample is one GetLoad answer as a plain dict with `t`, the poller's `time.perf_counter()` when it came.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Sample = dict[str, Any]
POLL_S = 0.2


class LoadPoller:
    """Calls `read` five times a second on a thread of its own and keeps every answer with its time.

    `stop` joins the thread. A failed read is counted in `failures` and left out; `samples` is safe to read while
    the poller runs.
    """

    def __init__(
        self,
        read: Callable[[], Sample],
        mode: str,
        *,
        path: Path | None = None,
        interval_s: float = POLL_S,
    ) -> None:
        self.samples: list[Sample] = []
        self.failures = 0
        self._answered_s = time.perf_counter()
        self._read = read
        self._mode = mode
        self._path = path
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load-poller-{mode}", daemon=True)

    def silent_s(self) -> float:
        """Seconds since the server last answered."""
        return time.perf_counter() - self._answered_s

    def start(self) -> LoadPoller:
        self._answered_s = time.perf_counter()
        self._thread.start()
        return self

    def stop(self) -> list[Sample]:
        self._ended.set()
        self._thread.join(timeout=10)
        return self.samples

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                values = self._read()
            except Exception:  # the server may be going away; its end is noticed by its owner
                self.failures += 1
                continue
            self._answered_s = time.perf_counter()
            sample = {"t": self._answered_s, "mode": self._mode} | values
            self.samples.append(sample)
            if self._path is not None:
                with self._path.open("a") as lines:
                    lines.write(json.dumps(sample) + "\n")


def growth(samples: Sequence[Sample], key: str) -> float:
    """How much a counter grew from the first sample to the last; 0 with fewer than two."""
    return float(samples[-1][key] - samples[0][key]) if len(samples) > 1 else 0.0


def padding_waste(samples: Sequence[Sample]) -> float | None:
    """Share of computed tokens that were padding, 1 - real / padded; None where nothing was computed."""
    padded = growth(samples, "padded_tokens")
    return 1 - growth(samples, "real_tokens") / padded if padded else None


def mean_rows(samples: Sequence[Sample]) -> float | None:
    """Mean rows at work per step; None where no step ran."""
    steps = growth(samples, "steps")
    return growth(samples, "row_steps") / steps if steps else None


def busy_share(samples: Sequence[Sample]) -> float | None:
    """Share of the server's time spent in steps, 0 to 1; None with fewer than two samples."""
    elapsed = growth(samples, "time_s")
    return min(1.0, growth(samples, "step_s") / elapsed) if elapsed else None


def between(samples: Sequence[Sample], start_s: float, end_s: float) -> list[Sample]:
    """The samples of an interval, ends included."""
    return [sample for sample in samples if start_s <= sample["t"] <= end_s]


def server_figures(samples: Sequence[Sample]) -> dict[str, float | None]:
    """What the server says of one interval: rows, padding, memory, preemptions, busy share."""
    pages = max((sample["pages_used"] for sample in samples), default=None)
    return {
        "batch_mean": mean_rows(samples),
        "padding_waste": padding_waste(samples),
        "kv_pages_peak": pages,
        "kv_pages_total": samples[-1]["pages_total"] if samples else None,
        "preemptions": growth(samples, "preemptions") if samples else None,
        "steps": growth(samples, "steps") if samples else None,
        "busy_share": busy_share(samples),
        "waiting_max": max((sample["waiting"] for sample in samples), default=None),
    }

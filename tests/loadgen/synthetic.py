"""A small simulation of the four batching modes: request records and load samples with the shapes a real run has.

A step costs a fixed time plus a little per padded row, as on a real device; the closed loop keeps `concurrency`
requests in flight. Numbers are plausible, not measured. It lets the report be built and tested without a server.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

STEP_BASE_S = 0.0115
STEP_ROW_S = 0.00075
PREFILL_TOKEN_S = 0.00022
NETWORK_S = 0.0021
SAMPLE_S = 0.2
MAX_ROWS = 32
MAX_WAIT_S = 0.05


@dataclass(eq=False)
class Job:
    """One request on its way through the simulated server."""

    id: str
    level: int
    prompt: int
    want: int
    t_send: float
    t_start: float = 0.0
    stamps: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return len(self.stamps) >= self.want


class Simulation:
    """One mode under a closed loop: `run` returns (records, samples) as load generator and poller write them."""

    def __init__(self, mode: str, *, seed: int = 7, start_s: float = 100.0) -> None:
        self.mode = mode
        self.now = start_s
        self.random = random.Random(f"{seed}/{mode}")
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.batch: list[Job] = []  # static: rows that stay, finished or not
        self.counters = dict.fromkeys(
            (
                "steps",
                "real_tokens",
                "padded_tokens",
                "prompt_tokens",
                "output_tokens",
                "row_steps",
            ),
            0,
        )
        self.finished = 0
        self.step_s = 0.0
        self.step_rows = self.step_padded = 0
        self.records: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.next_sample = start_s
        self.level = 0
        self.made = 0

    def run(
        self, levels: list[int], level_s: float
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        for level in levels:
            self.level = level
            level_start, end = self.now, self.now + level_s
            while len(self.waiting) + len(self.running) < level:
                self._arrive()
            while self.now < end:
                self._step(level_start)
        for job in self.waiting + self.running:
            self._record(job, cut=True, level_start=level_start)
        return self.records, self.samples

    def _arrive(self) -> None:
        self.made += 1
        want = self.random.choice((8, 12, 16, 16, 24, 24, 32, 48, 64, 96))
        prompt = max(8, min(160, int(self.random.lognormvariate(3.7, 0.6))))
        job_id = f"{self.mode}-{self.made:05d}"
        self.waiting.append(Job(job_id, self.level, prompt, want, self.now))

    def _admit(self) -> list[Job]:
        room = MAX_ROWS - len(self.running)
        if self.mode != "continuous" and self.running:
            return []
        if self.mode == "sequential":
            room = 1
        elif self.mode in ("static", "dynamic") and len(self.waiting) < min(MAX_ROWS, self.level):
            self._spend(MAX_WAIT_S, working=False)
        joined, self.waiting = self.waiting[:room], self.waiting[room:]
        if self.mode == "static" and joined:
            self.batch = list(joined)
        return joined

    def _step(self, level_start: float) -> None:
        joined = self._admit()
        for job in joined:
            job.t_start = self.now
        self.running += joined
        active = len(self.running)
        padded = len(self.batch) if self.mode == "static" else bucket(active)
        prompts = [job.prompt for job in joined]
        spread = 1.0 if self.mode == "continuous" else 0.0
        area = max(prompts) * len(prompts) if prompts else 0
        padded_prompt = int(sum(prompts) * 1.06) if spread else area
        self.step_rows, self.step_padded = active, padded
        self._spend(
            STEP_BASE_S + STEP_ROW_S * padded + PREFILL_TOKEN_S * padded_prompt, working=True
        )
        count = self.counters
        count["steps"] += 1
        count["row_steps"] += active
        count["real_tokens"] += active + sum(prompts)
        count["padded_tokens"] += padded + padded_prompt
        count["prompt_tokens"] += sum(prompts)
        count["output_tokens"] += active
        for job in self.running:
            job.stamps.append(self.now + NETWORK_S)
            job.rows.append(active)
        for job in [job for job in self.running if job.done]:
            self.running.remove(job)
            self.finished += 1
            self._record(job, cut=False, level_start=level_start)
            self._arrive()

    def _spend(self, seconds: float, *, working: bool) -> None:
        self.now += seconds
        self.step_s += seconds if working else 0.0
        while self.next_sample <= self.now:
            self.samples.append(
                {"t": self.next_sample, "mode": self.mode, "time_s": self.next_sample - 3.0}
                | {"running": len(self.running), "waiting": len(self.waiting), "waiting_tokens": 0}
                | {"pages_used": 6 * len(self.running), "pages_total": 600}
                | {"step_rows": self.step_rows, "step_padded_rows": self.step_padded}
                | self.counters
                | {"cached_tokens": 0, "preemptions": 0, "requests_finished": self.finished}
                | {"requests_rejected": 0, "step_s": self.step_s, "draining": False}
            )
            self.next_sample += SAMPLE_S

    def _record(self, job: Job, *, cut: bool, level_start: float) -> None:
        last = job.t_send
        deltas = []
        for stamp in job.stamps:
            deltas.append(round((stamp - last) * 1e6))
            last = stamp
        first = job.stamps[0] if job.stamps else self.now
        server = {
            "queue_ms": 1e3 * (job.t_start - job.t_send),
            "prefill_ms": 1e3 * (first - NETWORK_S - job.t_start),
            "decode_ms": 1e3 * (last - first),
            "ttft_ms": 1e3 * (first - NETWORK_S - job.t_send),
            "total_ms": 1e3 * (last - NETWORK_S - job.t_send),
            "batch_rows_mean": sum(job.rows) / max(len(job.rows), 1),
        }
        self.records.append(
            {"id": job.id, "mode": self.mode, "level": job.level, "worker": 0}
            | {"phase": "warmup" if job.t_send < level_start + 0.3 else "measure"}
            | {"t_send": job.t_send, "t_end": self.now if cut else last + 0.0004}
            | {"status": "CANCELLED" if cut else "OK", "cut": cut, "stamps_us": deltas}
            | {"tokens": [1] * len(deltas), "prompt_tokens": job.prompt}
            | {"requested_tokens": job.want, "output_tokens": 0 if cut else job.want}
            | {"finish": "" if cut else "MAX_TOKENS", "cached_tokens": 0, "gap": False}
            | {"server": None if cut else server}
        )


def bucket(rows: int) -> int:
    """The next power of two, as the server pads rows."""
    return 1 << max(rows - 1, 0).bit_length()


def baseline_points(
    batch_sizes: list[int], *, requests: int = 32, seed: int = 7
) -> list[dict[str, Any]]:
    """JSON lines as `paceline baseline` prints them: one-by-one, then left-padded batches."""
    random_ = random.Random(seed)
    wants = [random_.choice((8, 12, 16, 24, 24, 32, 48, 64, 96)) for _ in range(requests)]
    points = [_baseline("transformers", 1, wants)]
    points += [_baseline("transformers-batched", size, wants) for size in batch_sizes]
    return points


def _baseline(system: str, size: int, wants: list[int]) -> dict[str, Any]:
    clock, latencies, padded = 0.0, [], 0
    for at in range(0, len(wants), size):
        rows = wants[at : at + size]
        clock += max(rows) * (0.020 + 0.0042 * len(rows))
        latencies += [clock - 0.0 if size == 1 else max(rows) * (0.020 + 0.0042 * len(rows))] * len(
            rows
        )
        padded += max(rows) * len(rows)
    if size == 1:
        latencies = [want * 0.0242 for want in wants]
    return {
        "system": system,
        "batch_size": size,
        "requests": len(wants),
        "output_tokens": sum(wants),
        "wall_s": clock,
        "latency_s": latencies,
        "padding_waste": 1 - sum(wants) / padded,
    }

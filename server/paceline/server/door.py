"""The bounds of the queue, and how long one would wait in it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from .config import Admission, EngineConfig
from .drain_rate import DrainRate
from .errors import QueueFull
from .request import Request
from .sequence import Sequence

_RETRY_S = (0.05, 60.0)  # bounds of the advice when to come back
_UNKNOWN_S = 1.0  # the advice where nobody had to wait yet


class Door:
    """Counts what waits, so that `submit` can refuse at once. The only state two threads share."""

    def __init__(self, config: EngineConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: Counter[int] = Counter()  # completions, by priority
        self._tokens = 0
        self._rate = DrainRate()
        self._planned_s = 0.0
        self._blocked = False  # whether somebody was left waiting when a step was last planned
        self.rejected = 0

    def enter(self, request: Request, *, again: bool = False) -> None:
        """Lets a request wait, or raises QueueFull with the time in which the queue may have emptied.

        Args:
            again: it was let in before, and is now whatever waits.
        """
        with self._lock:
            if not again:
                self._check(request)
            self._waiting[request.priority] += request.n
            self._tokens += request.n * len(request.prompt_ids)

    def leave(self, sequence: Sequence) -> None:
        """A completion joined, or ended before that."""
        with self._lock:
            self._waiting[sequence.request.priority] -= 1
            self._tokens -= sequence.num_prompt
            if self._blocked and sequence.slot >= 0:
                self._rate.joined()

    def planned(self, waiting: int, now: float) -> None:
        """A step was planned, and so many were left waiting."""
        with self._lock:
            if self._blocked:
                self._rate.passed(now - self._planned_s)
            self._blocked, self._planned_s = waiting > 0, now

    def wait_s(self) -> float:
        """How long a request of ordinary priority would wait now."""
        with self._lock:
            return self._wait_s(0)

    def _check(self, request: Request) -> None:
        config, waiting = self._config, self._waiting.total()
        if waiting + request.n > config.max_queue_requests:
            self._refuse(f"{waiting} requests are waiting already")
        if self._tokens + request.n * len(request.prompt_ids) > config.max_queue_tokens:
            self._refuse(f"{self._tokens} prompt tokens are waiting already")
        wait_s = self._wait_s(request.priority)
        if config.max_queue_wait_s is not None and wait_s > config.max_queue_wait_s:
            self._refuse(f"a request would wait {wait_s:.1f} s")
        if config.admission is Admission.DEADLINE and request.deadline is not None:
            left_s = request.deadline - self._clock()
            if wait_s > left_s:
                self._refuse(f"a request would wait {wait_s:.1f} s, this one has {left_s:.1f} s")

    def _wait_s(self, priority: int) -> float:
        ahead = sum(count for level, count in self._waiting.items() if level <= priority)
        rate = self._rate.per_s
        return ahead / rate if rate else 0.0

    def _refuse(self, message: str) -> None:
        self.rejected += 1
        rate, (least, most) = self._rate.per_s, _RETRY_S
        drained_s = self._waiting.total() / rate if rate else _UNKNOWN_S
        raise QueueFull(message, retry_after_s=min(most, max(least, drained_s)))

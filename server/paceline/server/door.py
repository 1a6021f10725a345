"""The bound of the queue."""

from __future__ import annotations

import threading

from .errors import QueueFull
from .sequence import Sequence


class Door:
    """Counts what waits, so that `submit` can refuse at once. The only state two threads share."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._requests = 0
        self._tokens = 0
        self.rejected = 0

    def enter(self, requests: int, tokens: int, *, again: bool = False) -> None:
        """Lets waiting requests in, or raises QueueFull, but not at those that were in before."""
        with self._lock:
            if not again and self._requests + requests > self._max_requests:
                self._refuse(f"{self._requests} requests are waiting already")
            if not again and self._tokens + tokens > self._max_tokens:
                self._refuse(f"{self._tokens} prompt tokens are waiting already")
            self._requests += requests
            self._tokens += tokens

    def leave(self, sequence: Sequence) -> None:
        with self._lock:
            self._requests -= 1
            self._tokens -= sequence.num_prompt

    def _refuse(self, message: str) -> None:
        self.rejected += 1
        raise QueueFull(message, retry_after_s=1.0)

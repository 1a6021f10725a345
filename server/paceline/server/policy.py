"""The four batching modes. Each answers one question: how many waiting requests may join now?

Pure values: time and queue come in as arguments. What sets the modes apart beside that question is
written as plain attributes, which the scheduler reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from .config import EngineConfig, Mode


@dataclass(frozen=True, slots=True)
class Queue:
    """What a policy may look at. Times are seconds of the engine's clock."""

    running: int
    waiting: int
    oldest_arrival: float
    now: float


class Policy(ABC):
    """One batching mode."""

    lockstep: ClassVar[bool] = False
    """Members are prefilled together and decode together, as `generate()` does."""
    keeps_rows: ClassVar[bool] = False
    """A finished row stays as padding until the whole batch ends."""
    sorts_by_length: ClassVar[bool] = False
    """Prompts of similar length share a padded rectangle."""
    lets_wait: ClassVar[bool] = False
    """How long the oldest has waited matters; else nobody need find out."""

    @abstractmethod
    def joiners(self, queue: Queue) -> int:
        """How many of the waiting, in order, may join now."""

    def asks_again_at(self, oldest_arrival: float) -> float | None:
        """When the answer may change although nothing arrives or ends; None: never."""
        return None


class Sequential(Policy):
    """One request at a time: the next joins when nothing runs."""

    lockstep = True

    def joiners(self, queue: Queue) -> int:
        return 0 if queue.running else min(1, queue.waiting)


@dataclass(frozen=True)
class Static(Policy):
    """A batch starts when it is full or its oldest member has waited; it ends with its longest."""

    max_batch_size: int
    max_wait_s: float
    lockstep = True
    keeps_rows = True
    lets_wait = True

    def joiners(self, queue: Queue) -> int:
        if queue.running or not queue.waiting:
            return 0
        full = queue.waiting >= self.max_batch_size
        # Compared as `asks_again_at` computes it: a rounding apart would make the engine spin.
        due = queue.now >= queue.oldest_arrival + self.max_wait_s
        return min(queue.waiting, self.max_batch_size) if full or due else 0

    def asks_again_at(self, oldest_arrival: float) -> float | None:
        return oldest_arrival + self.max_wait_s


class Dynamic(Static):
    """As static, but sorted by length, and finished rows leave: the batch shrinks."""

    keeps_rows = False
    sorts_by_length = True


@dataclass(frozen=True)
class Continuous(Policy):
    """Whoever waits joins at any step while there is a row for it."""

    max_batch_size: int

    def joiners(self, queue: Queue) -> int:
        return max(0, min(queue.waiting, self.max_batch_size - queue.running))


def make_policy(config: EngineConfig) -> Policy:
    """The policy of a configured mode."""
    match config.mode:
        case Mode.SEQUENTIAL:
            return Sequential()
        case Mode.STATIC:
            return Static(config.max_batch_size, config.max_wait_ms / 1e3)
        case Mode.DYNAMIC:
            return Dynamic(config.max_batch_size, config.max_wait_ms / 1e3)
        case Mode.CONTINUOUS:
            return Continuous(config.max_batch_size)

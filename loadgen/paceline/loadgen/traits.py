"""What readers ask for besides text: priorities, deadlines, and leaving before the end. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

from paceline.loadgen.prompt import Prompt
from paceline.loadgen.source import Source


@dataclass(frozen=True, slots=True)
class Traits:
    """Drawn for each request that does not bring its own.

    Attributes:
        priorities: (priority, share) pairs; empty: ordinary.
        deadline_s: bounds of the gRPC deadline, drawn evenly by its logarithm; equal bounds: one for all.
        cancel_share: of the requests, cancelled after some of their tokens, evenly from the first to the last but one.
    """

    priorities: tuple[tuple[int, float], ...] = ()
    deadline_s: tuple[float, float] | None = None
    cancel_share: float = 0.0

    @property
    def notes(self) -> str:
        told = []
        if self.priorities:
            parts = (f"{value} for {100 * share:g} %" for value, share in self.priorities)
            told.append(f"priority {', '.join(parts)}")
        if self.deadline_s is not None:
            low, high = self.deadline_s
            span = f"{low:g} s" if low == high else f"{low:g} to {high:g} s"
            told.append(f"deadlines of {span}")
        if self.cancel_share:
            told.append(f"{100 * self.cancel_share:g} % cancelled by the client")
        return "; ".join(told)

    def on(self, prompt: Prompt, rng: random.Random) -> Prompt:
        """The prompt with its traits. Always three draws and one of a length: no setting shifts another's."""
        first, second, third, fourth = (rng.random() for _ in range(4))
        if self.priorities and not prompt.priority:
            prompt = replace(prompt, priority=_chosen(self.priorities, first))
        if self.deadline_s is not None and prompt.deadline_s is None:
            low, high = (math.log(bound) for bound in self.deadline_s)
            prompt = replace(prompt, deadline_s=round(math.exp(low + second * (high - low)), 3))
        if third < self.cancel_share and prompt.cancel_after is None:
            after = 1 + int(fourth * max(1, prompt.max_tokens - 1))
            prompt = replace(prompt, cancel_after=after)
        return prompt


def _chosen(shares: tuple[tuple[int, float], ...], at: float) -> int:
    for value, share in shares:
        if at < share:
            return value
        at -= share
    return shares[-1][0]


@dataclass(frozen=True, slots=True)
class WithTraits:
    """A workload whose requests have traits; texts and lengths stay those of the workload."""

    source: Source
    traits: Traits
    seed: int = 0

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def notes(self) -> str:
        return f"{self.source.notes}; {self.traits.notes}"

    @property
    def arrival(self) -> str:
        return self.source.arrival

    @property
    def factors(self) -> dict[str, Any]:
        return self.source.factors

    def prompt(self, index: int, level: int = 0) -> Prompt:
        rng = random.Random(f"{self.seed}/traits/{self.name}/{index}")
        return self.traits.on(self.source.prompt(index, level), rng)

    def untagged(self) -> WithTraits:
        return replace(self, source=self.source.untagged())

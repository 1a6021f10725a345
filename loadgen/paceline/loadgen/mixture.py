"""Several workloads at once, by weight. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from paceline.loadgen.prompt import Prompt
from paceline.loadgen.source import Source


@dataclass(frozen=True, slots=True)
class Part:
    """A workload, what the records call it, and its share of the requests."""

    label: str
    source: Source
    weight: float


@dataclass(frozen=True, slots=True)
class Mixture:
    """Each request comes from one part, drawn by weight; its kind is the part's name and, behind it, its own kind."""

    parts: tuple[Part, ...]  # weights add up to 1
    seed: int = 0
    name: str = "mix"

    @property
    def notes(self) -> str:
        return " | ".join(
            f"{100 * part.weight:.3g} % {part.label}: {part.source.notes}" for part in self.parts
        )

    @property
    def arrival(self) -> str:
        """That of the heaviest part."""
        return max(self.parts, key=lambda part: part.weight).source.arrival

    @property
    def factors(self) -> dict[str, Any]:
        return {part.label: used for part in self.parts for used in part.source.factors.values()}

    def prompt(self, index: int, level: int = 0) -> Prompt:
        part = self._part(random.Random(f"{self.seed}/mix/{index}").random())
        prompt = part.source.prompt(index, level)
        kind = "/".join(word for word in (part.label, prompt.kind) if word)
        # The index tells requests of one part from another's, whatever a file calls them.
        return replace(prompt, kind=kind, id=f"{index:05d}-{part.label}")

    def _part(self, at: float) -> Part:
        for part in self.parts:
            if at < part.weight:
                return part
            at -= part.weight
        return self.parts[-1]

    def untagged(self) -> Mixture:
        return replace(
            self, parts=tuple(replace(part, source=part.source.untagged()) for part in self.parts)
        )

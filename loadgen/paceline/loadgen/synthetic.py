"""Requests of drawn lengths and seeded text. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from paceline.loadgen.english import TAG_TOKENS, tag, text_of
from paceline.loadgen.lengths import Lengths, fit_factor
from paceline.loadgen.prompt import Prompt
from paceline.loadgen.scale import Scale


@dataclass(frozen=True, slots=True)
class SizeClass:
    """A share of the requests that is alike in length; `kind` names it in the records."""

    lengths: Lengths
    share: float = 1.0
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Synthetic:
    """English text of drawn lengths.

    Requests of different levels have the same text and lengths but another six-digit tag in front,
    so that a server with a prefix cache does not find the prompts of the level before. The nonce
    shifts the tags, so that it does not find those of the run before either.
    """

    name: str
    origin: str
    sizes: tuple[SizeClass, ...]
    scale: Scale
    fit: float = 1.0
    arrival: str = ""

    @classmethod
    def scaled(
        cls, name: str, origin: str, sizes: tuple[SizeClass, ...], scale: Scale, arrival: str = ""
    ) -> Synthetic:
        """With lengths as `scale` asks, and short enough for the model's context."""
        sizes = tuple(replace(one, lengths=one.lengths.scaled(scale.length)) for one in sizes)
        longest = max(
            one.lengths.prompt.high + scale.tokens * one.lengths.output.high for one in sizes
        )
        fit = fit_factor(longest, scale.context_tokens)
        if fit != 1.0:
            sizes = tuple(replace(one, lengths=one.lengths.times(fit)) for one in sizes)
        return cls(name, origin, sizes, scale, fit, arrival)

    @property
    def notes(self) -> str:
        told = ", ".join(
            f"{100 * one.share:g} % {one.lengths.notes}"
            if len(self.sizes) > 1
            else one.lengths.notes
            for one in self.sizes
        )
        return f"{self.origin}{told}{self.scale.notes(self.fit)}"

    @property
    def factors(self) -> dict[str, Any]:
        first = self.sizes[0].lengths
        used = self.scale.factors(first.prompt.factor, first.output.factor, self.fit)
        return {self.name: used}

    def prompt(self, index: int, level: int = 0) -> Prompt:
        """Request `index`: about as many prompt tokens as drawn, exactly as many output tokens."""
        rng = random.Random(f"{self.scale.seed}/{self.name}/{index}")
        size = self._size(rng)
        prompt_tokens, output_tokens = size.lengths.prompt.of(rng), size.lengths.output.of(rng)
        text = text_of(rng, prompt_tokens - TAG_TOKENS)
        return Prompt(
            id=f"{self.name}-{index:05d}",
            text=f"{tag(index, level, self.scale.nonce)} {text}",
            max_tokens=self.scale.answer(output_tokens),
            seed=index,
            kind=size.kind,
        )

    def _size(self, rng: random.Random) -> SizeClass:
        if len(self.sizes) == 1:
            return self.sizes[0]
        at = rng.random()
        for size in self.sizes[:-1]:
            if at < size.share:
                return size
            at -= size.share
        return self.sizes[-1]

    def untagged(self) -> Synthetic:
        return replace(self, scale=replace(self.scale, nonce=0))

"""Requests that begin with one of a few common texts, as calls of an assistant with a long instruction do. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from paceline.loadgen.english import TAG_TOKENS, tag, text_of
from paceline.loadgen.lengths import Lengths, even_lengths, fit_factor
from paceline.loadgen.prompt import Prompt
from paceline.loadgen.scale import Scale

GROUPS, PREFIX_TOKENS = 8, 128
OWN = (32, 32)  # tokens of each request's own text and of its answer
OWN_SPREAD = 0.5


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """`groups` prefixes; the k-th most popular one is asked 1/k times as often as the first (Zipf, exponent 1).

    Each level has prefixes of its own (another tag in front), so that each begins with a cold cache.
    """

    groups: int
    prefix_tokens: int
    lengths: Lengths
    scale: Scale
    fit: float = 1.0
    name: str = "shared-prefix"
    arrival: str = ""

    @classmethod
    def scaled(cls, groups: int, prefix_tokens: int, scale: Scale, *, fitted: bool) -> SharedPrefix:
        """With lengths as `scale` asks; `fitted` makes them fit the model's context."""
        factor = scale.length or 1.0
        lengths = even_lengths(*OWN, OWN_SPREAD).scaled(scale.length)
        prefix = max(1, round(prefix_tokens * factor))
        longest = prefix + lengths.prompt.high + scale.tokens * lengths.output.high
        fit = fit_factor(longest, scale.context_tokens) if fitted else 1.0
        return cls(groups, max(1, round(prefix * fit)), lengths.times(fit), scale, fit)

    @property
    def notes(self) -> str:
        told = f"{self.groups} prefixes of {self.prefix_tokens} tokens, popular as 1/rank, then "
        return f"{told}{self.lengths.notes}{self.scale.notes(self.fit)}"

    @property
    def factors(self) -> dict[str, Any]:
        used = self.scale.factors(self.lengths.prompt.factor, self.lengths.output.factor, self.fit)
        return {self.name: used}

    def group(self, rng: random.Random) -> int:
        """The rank of a drawn prefix, from 0."""
        weights = accumulate(1 / rank for rank in range(1, self.groups + 1))
        return rng.choices(range(self.groups), cum_weights=tuple(weights))[0]

    def prompt(self, index: int, level: int = 0) -> Prompt:
        """Request `index`: its group's prefix, then text of its own."""
        seed, nonce = self.scale.seed, self.scale.nonce
        rng = random.Random(f"{seed}/{self.name}/{index}")
        group = self.group(rng)
        own_tokens, output_tokens = self.lengths.prompt.of(rng), self.lengths.output.of(rng)
        common = random.Random(f"{seed}/{self.name}/prefix/{group}")
        prefix = text_of(common, self.prefix_tokens - TAG_TOKENS)
        own = text_of(rng, own_tokens - TAG_TOKENS)
        return Prompt(
            id=f"{self.name}-{index:05d}",
            text=f"{tag(group, level, nonce)} {prefix} {tag(index, level, nonce)} {own}",
            max_tokens=self.scale.answer(output_tokens),
            seed=index,
        )

    def untagged(self) -> SharedPrefix:
        return replace(self, scale=replace(self.scale, nonce=0))

"""Conversations: what was said and answered comes again with every turn. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from paceline.loadgen.english import TAG_TOKENS, tag, text_of
from paceline.loadgen.lengths import Lengths, even_lengths, fit_factor
from paceline.loadgen.prompt import USER, Prompt, Turn
from paceline.loadgen.scale import Scale

TURNS = 4
TURN = (32, 40)  # tokens that the reader says, and of the answer, in one turn
TURN_SPREAD = 0.5
LABEL_TOKENS = 6  # of the two speakers' names


def think_time(turn: str, mean_s: float, seed: int) -> float:
    """Seconds between an answer's end and the turn of that id: exponential, and the same in every run."""
    return random.Random(f"{seed}/think/{turn}").expovariate(1 / mean_s) if mean_s else 0.0


@dataclass(frozen=True, slots=True)
class Conversations:
    """Request `index` is the first turn of conversation `index`; `Prompt.next_turn` goes on with the server's answers.

    As plain text, which any model takes, or as chat messages for a model with a chat template.
    """

    turns: int
    chat: bool
    lengths: Lengths
    scale: Scale
    fit: float = 1.0
    name: str = "multi-turn"
    arrival: str = ""

    @classmethod
    def scaled(cls, turns: int, scale: Scale, *, chat: bool) -> Conversations:
        """With lengths as `scale` asks, so that the last turn fits the model's context."""
        lengths = even_lengths(*TURN, TURN_SPREAD).scaled(scale.length)
        each = lengths.prompt.high + LABEL_TOKENS + scale.tokens * lengths.output.high
        fit = fit_factor(turns * each, scale.context_tokens)
        return cls(turns, chat, lengths.times(fit), scale, fit)

    @property
    def notes(self) -> str:
        told = f"conversations of {self.turns} turns of {self.lengths.notes}"
        told += " as chat messages" if self.chat else " as plain text"
        return told + self.scale.notes(self.fit)

    @property
    def factors(self) -> dict[str, Any]:
        used = self.scale.factors(self.lengths.prompt.factor, self.lengths.output.factor, self.fit)
        return {self.name: used}

    def prompt(self, index: int, level: int = 0) -> Prompt:
        """The first turn of conversation `index`, with what the reader says later in `turns`."""
        rng = random.Random(f"{self.scale.seed}/{self.name}/{index}")
        first, *later = (self._turn(rng, TAG_TOKENS if at == 0 else 0) for at in range(self.turns))
        text = f"{tag(index, level, self.scale.nonce)} {first.text}"
        prompt = Prompt(
            id=f"{self.name}-{index:05d}",
            max_tokens=first.max_tokens,
            seed=index,
            turns=tuple(later),
        )
        if self.chat:
            return replace(prompt, messages=((USER, text),))
        return replace(prompt, text=text)

    def _turn(self, rng: random.Random, spared: int) -> Turn:
        said, output_tokens = self.lengths.prompt.of(rng), self.lengths.output.of(rng)
        text = text_of(rng, said - spared)
        if not self.chat:
            text = f"User: {text}\nAssistant:"
        return Turn(text, self.scale.answer(output_tokens))

    def untagged(self) -> Conversations:
        return replace(self, scale=replace(self.scale, nonce=0))

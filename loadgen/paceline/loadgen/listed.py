"""A fixed list of prompts. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from paceline.loadgen.corpus import NOTEBOOK_PROMPTS
from paceline.loadgen.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Listed:
    """Prompts in their order, begun again at the end, every level alike."""

    name: str
    notes: str
    prompts: tuple[Prompt, ...]
    arrival: str = ""

    @property
    def factors(self) -> dict[str, Any]:
        """None: nothing is scaled."""
        return {}

    def prompt(self, index: int, level: int = 0) -> Prompt:
        """Prompt `index`, counted round the list; a later round shows in its id."""
        again, place = divmod(index, len(self.prompts))
        prompt = self.prompts[place]
        return replace(prompt, id=f"{prompt.id}.{again}") if again else prompt

    def untagged(self) -> Listed:
        return self


def notebook() -> Listed:
    """Eight short prompts, 50 tokens each at temperature 0.7."""
    prompts = (
        Prompt(f"notebook-{i}", text, max_tokens=50, temperature=0.7, seed=i)
        for i, text in enumerate(NOTEBOOK_PROMPTS)
    )
    return Listed("notebook", "eight short prompts, 50 tokens each", tuple(prompts))

"""Where prompts come from: what every workload offers."""

from __future__ import annotations

from typing import Any, Protocol, Self

from paceline.loadgen.prompt import Prompt


class Source(Protocol):
    """Numbered requests. Request `index` is the same in every run, process and mode."""

    @property
    def name(self) -> str: ...

    @property
    def notes(self) -> str:
        """What it asks for, in words, with every factor on its lengths."""

    @property
    def arrival(self) -> str:
        """The arrivals it is meant for in an open loop, for example `gamma:0.25`; empty: any."""

    @property
    def factors(self) -> dict[str, Any]:
        """What its lengths were multiplied by, per drawn part: `prompt`, `output`, `fit`."""

    def prompt(self, index: int, level: int = 0) -> Prompt:
        """Request `index` of the level at place `level` of a sweep."""

    def untagged(self) -> Self:
        """The same work without the nonce that tells runs apart: what a fingerprint is made of."""

"""Stop strings: found in text that arrives in pieces, and what must be held back meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopHit:
    """Where a stop string ended: `end` is the index just past it in the text of that `feed`."""

    stop: str
    end: int


class StopSet:
    """Stop strings with their prefix tables (Knuth, Morris, Pratt 1977); immutable, shared by n completions."""

    __slots__ = ("_patterns",)

    def __init__(self, stops: Sequence[str]) -> None:
        # Longest first: of strings that end at the same character the longest is reported.
        unique = sorted(set(stops), key=len, reverse=True)
        self._patterns = tuple((stop, _prefix_table(stop)) for stop in unique if stop)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def matcher(self) -> StopMatcher:
        """A fresh search through one text."""
        return StopMatcher(self._patterns)


class StopMatcher:
    """Searches one growing text, a constant amount of work a character for each stop string.

    The match is the one that ends first, and the longest of those: it does not depend on how the text is cut.
    """

    __slots__ = ("_patterns", "_states")

    def __init__(self, patterns: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
        self._patterns = patterns
        self._states = [0] * len(patterns)

    def feed(self, text: str) -> StopHit | None:
        """The first stop string that ends within `text`; after one, the rest of `text` has not been read."""
        for position, character in enumerate(text):
            hit = self._advance(character)
            if hit is not None:
                return StopHit(hit, position + 1)
        return None

    @property
    def held(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        return max(self._states, default=0)

    def _advance(self, character: str) -> str | None:
        hit = None
        for number, (stop, table) in enumerate(self._patterns):
            state = self._states[number]
            while state and stop[state] != character:
                state = table[state - 1]
            if stop[state] == character:
                state += 1
            if state == len(stop):
                hit = hit or stop
                state = table[state - 1]
            self._states[number] = state
        return hit


def _prefix_table(pattern: str) -> tuple[int, ...]:
    """For each position the length of the longest proper prefix that ends there."""
    table = [0] * len(pattern)
    length = 0
    for position in range(1, len(pattern)):
        while length and pattern[position] != pattern[length]:
            length = table[length - 1]
        if pattern[position] == pattern[length]:
            length += 1
        table[position] = length
    return tuple(table)

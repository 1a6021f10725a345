"""The waiting line: sequences in the order they will join."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from .sequence import Sequence


def place(sequence: Sequence) -> tuple[int, int]:
    """Sort key: priority first, then arrival."""
    return sequence.place


class WaitingLine:
    """Sequences sorted by place, with the number of prompt tokens they bring."""

    def __init__(self) -> None:
        self._line: list[Sequence] = []
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._line)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._line)

    @property
    def oldest_arrival(self) -> float:
        """When the longest-waiting request came; infinity when nobody waits."""
        return min((s.request.arrival for s in self._line), default=float("inf"))

    @property
    def head(self) -> Sequence:
        return self._line[0]

    def add(self, sequence: Sequence) -> None:
        insort(self._line, sequence, key=place)
        self.tokens += sequence.num_prompt

    def remove(self, sequence: Sequence) -> None:
        self._line.remove(sequence)
        self.tokens -= sequence.num_prompt

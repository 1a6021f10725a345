"""The waiting line: sequences in the order they will join."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from .sequence import Sequence


def place(sequence: Sequence) -> tuple[float, int]:
    """Sort key: arrival, put off or brought forward by priority."""
    return sequence.place


class WaitingLine:
    """Sequences sorted by place, with the number of prompt tokens they bring."""

    def __init__(self) -> None:
        self._line: list[Sequence] = []
        self._oldest: float | None = float("inf")  # None: to be found again
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._line)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._line)

    @property
    def oldest_arrival(self) -> float:
        """When the longest-waiting request came; infinity when nobody waits."""
        if self._oldest is None:
            self._oldest = min((s.request.arrival for s in self._line), default=float("inf"))
        return self._oldest

    @property
    def head(self) -> Sequence:
        return self._line[0]

    def add(self, sequence: Sequence) -> None:
        insort(self._line, sequence, key=place)
        self.tokens += sequence.num_prompt
        if self._oldest is not None:
            self._oldest = min(self._oldest, sequence.request.arrival)

    def remove(self, sequence: Sequence) -> None:
        del self._line[bisect_left(self._line, sequence.place, key=place)]
        self.tokens -= sequence.num_prompt
        if sequence.request.arrival == self._oldest:
            self._oldest = None

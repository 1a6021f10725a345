"""The running sequences: who has a slot, in the order of their place."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heappop, heappush

from .sequence import Sequence
from .waiting import place


class Running:
    """Sequences with a slot: some have a prompt to compute, the others get a token each step.

    Both lists are kept sorted by place, for a step is planned in that order.
    """

    def __init__(self, max_rows: int) -> None:
        self.prefilling: list[Sequence] = []
        self.decoding: list[Sequence] = []
        self._free_slots = list(range(max_rows))  # a heap: the lowest goes first

    def __len__(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.decoding
        yield from self.prefilling

    @property
    def last(self) -> Sequence:
        """Whoever comes last in line."""
        return max((line[-1] for line in (self.prefilling, self.decoding) if line), key=place)

    def join(self, sequence: Sequence, *, prefilling: bool) -> None:
        sequence.slot = heappop(self._free_slots)
        insort(self.prefilling if prefilling else self.decoding, sequence, key=place)

    def leave(self, sequence: Sequence) -> None:
        if not _remove(self.decoding, sequence):
            _remove(self.prefilling, sequence)
        heappush(self._free_slots, sequence.slot)
        sequence.slot = -1

    def begin_to_decode(self, sequence: Sequence) -> None:
        """Its prompt is computed by the step being planned."""
        _remove(self.prefilling, sequence)
        insort(self.decoding, sequence, key=place)


def _remove(line: list[Sequence], sequence: Sequence) -> bool:
    at = bisect_left(line, sequence.place, key=place)
    if at == len(line) or line[at] is not sequence:
        return False
    del line[at]
    return True

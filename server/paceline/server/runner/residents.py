"""What the device, and the host's arrays, know already of the rows of a step: only what is new is read and sent."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from ..sequence import Sequence
from ..step import Row


class Residents:
    """Who the device knows in each slot, and how many of its pages."""

    def __init__(self, slots: int, page_size: int) -> None:
        self._page_size = page_size
        self._stays = np.full(slots, -1, dtype=np.int64)
        self._sent = np.zeros(slots, dtype=np.int64)
        self._tenants = Tenants([], [])

    def look(self, row: Row, news: list[int], joined: list[Sequence]) -> None:
        """Adds the table entries to send for a row, and its sequence if that is new in its slot."""
        sequence = row.sequence
        slot = sequence.slot
        sent = int(self._sent[slot])
        if self._stays[slot] != sequence.stay:
            self._stays[slot] = sequence.stay
            joined.append(sequence)
            sent = 0
        for place in range(sent, row.num_pages):
            news += (slot, place, sequence.pages[place])
        self._sent[slot] = row.num_pages

    def tenants_of(self, rows: Seq[Row]) -> Tenants:
        """Of rows of one token: those of the step before, as long as nobody came or went."""
        stays = [row[0].stay for row in rows]
        if stays != self._tenants.listed:
            self._tenants = Tenants(rows, stays)
        return self._tenants

    def with_news(self, starts: np.ndarray, tenants: Tenants) -> np.ndarray:
        """Which of many one-token rows `look` would find something for."""
        begins_page = starts % self._page_size == 0
        return np.flatnonzero(begins_page | (self._stays[tenants.slots] != tenants.stays))


class Tenants:
    """What rows keep from step to step, as arrays. No two stays have the same number, so these say whose they are.

    Attributes:
        listed, stays: the numbers of their stays, as a list and as an array.
        texts: their tokens, lists that grow.
        slots, prompts: where they are, and how long their prompts.
    """

    def __init__(self, rows: Seq[Row], stays: list[int]) -> None:
        sequences = [row[0] for row in rows]
        self.listed = stays
        self.texts = [sequence.tokens for sequence in sequences]
        self.stays = column(stays)
        self.slots = column([sequence.slot for sequence in sequences])
        self.prompts = column([sequence.num_prompt for sequence in sequences])


def column(values: list[int]) -> np.ndarray:
    """As `np.array`, in half the time."""
    return np.fromiter(values, dtype=np.int64, count=len(values))

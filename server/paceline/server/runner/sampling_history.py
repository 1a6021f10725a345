"""Which tokens the sequences of slots have had, on the device: what penalties go by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .sampling_table import SetRow, penalised


class History:
    """Owns what slots with penalties have had; the kernels count what they choose.

    Attributes:
        counts: [slots, V], int32: how often the output has a token.
        seen: [slots, V], uint8: whether prompt or output have it.
    """

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        self.counts = torch.zeros(slots, vocab_size, dtype=torch.int32, device=device)
        self.seen = torch.zeros(slots, vocab_size, dtype=torch.uint8, device=device)
        self._vocab_size = vocab_size

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes + self.seen.nbytes

    def encode(self, slots: Sequence[int], rows: Sequence[SetRow]) -> list[Tensor]:
        """What `write` takes, on the host: nothing where no row has penalties."""
        mine = [(slot, row) for slot, row in zip(slots, rows, strict=True) if penalised(row.params)]
        if not mine:
            return []
        places, numbers, seen = [], [], []
        for slot, row in mine:
            first = slot * self._vocab_size
            output, number = torch.unique(self._inside(row.output_ids), return_counts=True)
            places.append(first + output)
            numbers.append(number)
            both = torch.cat([self._inside(row.prompt_ids), output])
            seen.append(first + torch.unique(both))
        slots_of_them = torch.tensor([slot for slot, _ in mine])
        return [slots_of_them, torch.cat(places), torch.cat(numbers), torch.cat(seen)]

    def write(self, slots: Tensor, places: Tensor, numbers: Tensor, seen: Tensor) -> None:
        """Slots with penalties begin anew.

        Args:
            places, numbers: of the counts, in all of the table.
            seen: places too.
        """
        for table in (self.counts, self.seen):
            table.index_fill_(0, slots, 0)
        self.counts.view(-1).index_copy_(0, places, numbers.to(torch.int32))
        self.seen.view(-1).index_fill_(0, seen, 1)

    def _inside(self, ids: Sequence[int]) -> Tensor:
        tensor = torch.tensor(ids, dtype=torch.int64)
        return tensor[tensor < self._vocab_size]

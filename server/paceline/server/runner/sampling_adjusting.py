"""The launches of `triton_adjusting`, and the room that they need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .sampling_history import History

_BLOCK = 128  # biased or banned tokens that are looked at together


class Adjusting:
    """Owns the adjusted logits of steps of up to `rows` rows, and their masks."""

    def __init__(self, rows: int, vocab_size: int, device: torch.device, chunk: int) -> None:
        self._rows, self._chunk = rows, chunk
        self._adjusted = torch.zeros(rows, vocab_size, device=device)
        self._words = -(-vocab_size // 32)
        # Which mask each row has, below zero for none, and then the masks: one copy brings both.
        length = rows * (1 + self._words)
        self._guidance = torch.full((length,), -1, dtype=torch.int32, device=device)

    @property
    def nbytes(self) -> int:
        return self._adjusted.nbytes + self._guidance.nbytes

    def set_masks(self, masks: Sequence[tuple[int, NDArray[np.uint32]]]) -> None:
        """See `SamplingState.set_masks`."""
        rows, words = self._rows, self._words
        host = torch.empty(rows + len(masks) * words, dtype=torch.int32)
        if self._guidance.is_cuda:
            host = host.pin_memory()
        places = host.numpy()
        places[:rows] = -1
        for number, (row, mask) in enumerate(masks):
            places[row] = number
            begin = rows + number * words
            places[begin : begin + words] = mask.view(np.int32)
        self._guidance[: len(host)].copy_(host, non_blocking=True)

    def adjust(
        self,
        logits: Tensor,
        slots: Tensor,
        positions: Tensor,
        table: Tensor,
        history: History,
        masking: bool,
    ) -> Tensor:
        """The logits after masks, penalties, bias and bans, in fp32."""
        from . import triton_adjusting as kernels

        rows, vocab_size = logits.shape
        before = (logits, logits.stride(0), slots)
        after = (
            table,
            history.counts,
            history.seen,
            self._adjusted,
            self._guidance[self._rows :],
            self._guidance[: self._rows],
            vocab_size,
            self._words,
        )
        kernels.adjust_chunks[rows, -(-vocab_size // self._chunk)](
            *before, *after, CHUNK=self._chunk, MASKING=masking, num_warps=8
        )
        kernels.adjust_rows[(rows,)](
            *before, positions, *after, BLOCK=_BLOCK, MASKING=masking, num_warps=4
        )
        return self._adjusted[:rows]

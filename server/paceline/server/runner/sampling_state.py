"""Sampling on a GPU without a word between device and host: the tables, and the launches over them.

What the kernels choose is what `sampling` chooses, but for the last bit of an exponential: see `triton_sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .sampling_adjusting import Adjusting
from .sampling_drawing import Drawing
from .sampling_history import History
from .sampling_table import SetRow, Variant, encode, row_words

_CHUNK = 4096
_CAPACITY = 4096
_BLOCK = 2048


class SamplingState:
    """Owns the sampling parameters of `slots` sequences, and the kernels' room for steps of up to `max_rows` rows.

    Args:
        chunk: how many tokens one program reads; a power of two, as are the next two.
        capacity: how many candidates are looked at before the whole row is.
        block: how many tokens of a whole row are looked at at once.
    """

    def __init__(
        self,
        slots: int,
        vocab_size: int,
        device: torch.device,
        max_rows: int | None = None,
        *,
        chunk: int = _CHUNK,
        capacity: int = _CAPACITY,
        block: int = _BLOCK,
    ) -> None:
        self._vocab_size, self._device = vocab_size, device
        self._max_rows = rows = max_rows or slots
        self._table = torch.zeros(slots, row_words(), dtype=torch.int64, device=device)
        self._history = History(slots, vocab_size, device)
        self._adjusting = Adjusting(rows, vocab_size, device, chunk)
        self._drawing = Drawing(
            rows, vocab_size, device, chunk=chunk, capacity=capacity, block=block
        )

    @property
    def fixed_bytes(self) -> int:
        """Device memory for what all rows need."""
        return self._table.nbytes + self._drawing.nbytes

    @property
    def extra_bytes(self) -> int:
        """Device memory for penalties, bias, bans and masks."""
        return self._history.nbytes + self._adjusting.nbytes

    def set_rows(self, slots: Sequence[int], rows: Sequence[SetRow]) -> None:
        """Gives slots, each named once, to sequences: one copy, which the host does not wait for.

        Raises ValueError where a row's lists are longer than the table's.
        """
        if not rows:
            return
        places: list[int] = []
        values = bytearray()
        for slot, row in zip(slots, rows, strict=True):
            for offset, words in encode(row, self._vocab_size):
                first = slot * row_words() + offset
                places += range(first, first + len(words) // 8)
                values += words
        history = self._history.encode(slots, rows)
        sent = self._upload(
            [torch.tensor(places), torch.frombuffer(values, dtype=torch.int64), *history]
        )
        self._table.view(-1).index_copy_(0, sent[0], sent[1])
        if history:
            self._history.write(*sent[2:])

    def set_masks(self, masks: Sequence[tuple[int, NDArray[np.uint32]]]) -> None:
        """Gives rows of the next launch of variant GUIDED their masks, see `guidance.Guide.mask`. Nothing waits."""
        self._adjusting.set_masks(masks)

    def choose(
        self,
        logits: Tensor,
        slots: Tensor,
        positions: Tensor,
        out_tokens: Tensor,
        last_tokens: Tensor,
        variant: Variant,
    ) -> None:
        """Chooses a token for each row by launches alone: nothing waits, and a CUDA graph can hold it.

        Kernels are compiled at their first launch, so call it once before recording. No slot may come twice.

        Args:
            logits: [R, V], bf16, fp16 or fp32, which stay as they are.
            slots: [R], int32; below zero: a row of padding, whose token is 0 and changes nothing.
            positions: [R], int32: how many output tokens the row has before this one.
            out_tokens: [R], int32 or int64: where the tokens go, `sampling.NO_TOKEN` where there is none.
            last_tokens: [slots], int32 or int64: where a slot's token goes, 0 where there is none.
            variant: the most that one of the rows needs, see `sampling_table.kind`.
        """
        rows, vocab_size = logits.shape
        if rows > self._max_rows or vocab_size != self._vocab_size or logits.stride(1) != 1:
            raise ValueError(
                f"no room for logits {tuple(logits.shape)} of strides {logits.stride()}"
            )
        if not rows:
            return
        table, history = self._table, self._history
        full = variant >= Variant.FULL
        if full:
            guided = variant is Variant.GUIDED
            logits = self._adjusting.adjust(logits, slots, positions, table, history, guided)
        if variant is Variant.GREEDY:
            self._drawing.take_peaks(logits, slots, out_tokens, last_tokens)
        else:
            self._drawing.draw(
                logits, slots, positions, out_tokens, last_tokens, table, history, counting=full
            )

    def _upload(self, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        together = torch.cat(list(parts))
        if self._device.type == "cuda":
            # The allocator of pinned memory keeps the block until the copy is done.
            together = together.pin_memory()
        sent = together.to(self._device, non_blocking=True)
        return torch.split(sent, [len(part) for part in parts])

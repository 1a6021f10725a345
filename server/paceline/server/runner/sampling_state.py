"""Sampling on a GPU without a word between device and host: the tables, and the launches over them.

The kernels are in `triton_sampling` and `triton_adjusting`. What they choose is what `sampling` chooses, but for the
last bit of an exponential.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .noise import SHARE_BITS
from .sampling_table import SetRow, Variant, encode, kind, penalised, row_words

_CHUNK = 4096
_CAPACITY = 4096
_BLOCK = 2048
_BINS = 256
_WARPS = 8


class _History(NamedTuple):
    counts: Tensor  # [slots, V], int32: how often the output has a token
    seen: Tensor  # [slots, V], uint8: whether prompt or output have it


class SamplingState:
    """Owns the sampling parameters of `slots` sequences, and the kernels' room for steps of up to `max_rows` rows.

    Tables that only penalties, bias and bans need are made when the first row comes that has some. That changes
    `generation`: launches that were recorded with variant FULL before then must be recorded anew.

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
        self.generation = 0
        self._slots, self._vocab_size, self._device = slots, vocab_size, device
        self._max_rows = rows = max_rows or slots
        self._chunk, self._capacity, self._block = chunk, capacity, block
        self._chunks = chunks = -(-vocab_size // chunk)
        self._table = torch.zeros(slots, row_words(), dtype=torch.int64, device=device)
        self._peaks = torch.zeros(rows, chunks, device=device)
        self._firsts = self._integers(rows, chunks)
        self._sums = self._integers(rows, chunks, dtype=torch.int64)
        self._histograms = self._integers(rows, chunks, _BINS)
        self._offsets = self._integers(rows, chunks)
        self._cuts = self._integers(rows)
        self._found = self._integers(rows)
        self._values = torch.zeros(rows, capacity, device=device)
        self._ids = self._integers(rows, capacity)
        self._words = -(-vocab_size // 32)
        # Which mask each row has, below zero for none, and then the masks: one copy brings both.
        self._guidance = self._integers(rows * (1 + self._words)).fill_(-1)
        self._adjusted: Tensor | None = None
        self._history: _History | None = None

    @property
    def fixed_bytes(self) -> int:
        """Device memory that is always held."""
        parts: tuple[Tensor, ...]
        parts = (self._table, self._peaks, self._firsts, self._sums, self._histograms)
        parts += (self._offsets, self._cuts, self._found, self._values, self._ids, self._guidance)
        return _bytes(parts)

    @property
    def extra_bytes(self) -> int:
        """Device memory that rows with penalties, bias or bans have called for so far."""
        adjusted = () if self._adjusted is None else (self._adjusted,)
        return _bytes((*adjusted, *(self._history or ())))

    def prepare_full(self, penalties: bool) -> None:
        """Makes the tables of variant FULL now, not with the first row that needs them."""
        if self._adjusted is None:
            self._adjusted = torch.zeros(self._max_rows, self._vocab_size, device=self._device)
            self.generation += 1
        if penalties and self._history is None:
            self._history = _History(
                self._integers(self._slots, self._vocab_size),
                self._integers(self._slots, self._vocab_size, dtype=torch.uint8),
            )
            self.generation += 1

    def set_rows(self, slots: Sequence[int], rows: Sequence[SetRow]) -> None:
        """Gives slots, each named once, to sequences: one copy, which the host does not wait for.

        Raises ValueError where a row's lists are longer than the table's.
        """
        if not rows:
            return
        encoded = [encode(row, self._vocab_size) for row in rows]
        penalties = any(penalised(row.params) for row in rows)
        if penalties or any(_may_be_full(row) for row in rows):
            self.prepare_full(penalties)
        places: list[int] = []
        values = bytearray()
        for slot, runs in zip(slots, encoded, strict=True):
            for offset, words in runs:
                first = slot * row_words() + offset
                places += range(first, first + len(words) // 8)
                values += words
        parts = [torch.tensor(places), torch.frombuffer(values, dtype=torch.int64)]
        if penalties:
            parts += self._histories(slots, rows)
        sent = self._upload(parts)
        self._table.view(-1).index_copy_(0, sent[0], sent[1])
        if penalties:
            assert self._history is not None
            self._write_history(self._history, *sent[2:])

    def set_masks(self, masks: Sequence[tuple[int, NDArray[np.uint32]]]) -> None:
        """Gives rows of the next launch of variant GUIDED their masks, see `guidance.Guide.mask`. Nothing waits."""
        rows, words = self._max_rows, self._words
        host = torch.empty(rows + len(masks) * words, dtype=torch.int32)
        if self._device.type == "cuda":
            host = host.pin_memory()
        places = host.numpy()
        places[:rows] = -1
        for number, (row, mask) in enumerate(masks):
            places[row] = number
            begin = rows + number * words
            places[begin : begin + words] = mask.view(np.int32)
        self._guidance[: len(host)].copy_(host, non_blocking=True)

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
        if variant >= Variant.FULL:
            logits = self._adjust(logits, slots, positions, variant is Variant.GUIDED)
        self._scan(logits, slots)
        if variant is Variant.GREEDY:
            self._take_peaks(slots, out_tokens, last_tokens)
        else:
            self._find_candidates(logits, slots)
            counting = variant >= Variant.FULL
            self._draw(logits, slots, positions, out_tokens, last_tokens, counting)

    def _adjust(self, logits: Tensor, slots: Tensor, positions: Tensor, masking: bool) -> Tensor:
        from . import triton_adjusting as kernels

        self.prepare_full(penalties=False)
        assert self._adjusted is not None
        rows, vocab_size = logits.shape
        counts, seen, counting = self._history_arguments()
        mask_at, masks = self._guidance[: self._max_rows], self._guidance[self._max_rows :]
        kernels.adjust_chunks[rows, self._chunks](
            logits,
            logits.stride(0),
            slots,
            self._table,
            counts,
            seen,
            self._adjusted,
            masks,
            mask_at,
            vocab_size,
            self._words,
            CHUNK=self._chunk,
            COUNTING=counting,
            MASKING=masking,
            num_warps=_WARPS,
        )
        kernels.adjust_rows[(rows,)](
            logits,
            logits.stride(0),
            slots,
            positions,
            self._table,
            counts,
            seen,
            self._adjusted,
            masks,
            mask_at,
            vocab_size,
            self._words,
            BLOCK=128,
            COUNTING=counting,
            MASKING=masking,
            num_warps=4,
        )
        return self._adjusted[:rows]

    def _scan(self, logits: Tensor, slots: Tensor) -> None:
        from . import triton_sampling as kernels

        kernels.scan_chunks[len(logits), self._chunks](
            logits,
            logits.stride(0),
            slots,
            self._peaks,
            self._firsts,
            self._vocab_size,
            CHUNK=self._chunk,
            num_warps=_WARPS,
        )

    def _take_peaks(self, slots: Tensor, out_tokens: Tensor, last_tokens: Tensor) -> None:
        from . import triton_sampling as kernels

        kernels.take_peaks[(len(slots),)](
            slots,
            self._peaks,
            self._firsts,
            out_tokens,
            last_tokens,
            self._chunks,
            MAX_CHUNKS=self._max_chunks,
            num_warps=1,
        )

    def _find_candidates(self, logits: Tensor, slots: Tensor) -> None:
        from . import triton_sampling as kernels

        rows = len(logits)
        kernels.weigh_chunks[rows, self._chunks](
            logits,
            logits.stride(0),
            slots,
            self._table,
            self._peaks,
            self._sums,
            self._histograms,
            self._vocab_size,
            self._unit,
            self._bin_scale,
            CHUNK=self._chunk,
            MAX_CHUNKS=self._max_chunks,
            BINS=_BINS,
            num_warps=_WARPS,
        )
        kernels.plan_rows[(rows,)](
            slots,
            self._table,
            self._histograms,
            self._offsets,
            self._cuts,
            self._found,
            self._chunks,
            CAPACITY=self._capacity,
            BINS=_BINS,
            num_warps=4,
        )
        kernels.collect_chunks[rows, self._chunks](
            logits,
            logits.stride(0),
            slots,
            self._table,
            self._peaks,
            self._offsets,
            self._cuts,
            self._values,
            self._ids,
            self._vocab_size,
            self._bin_scale,
            CHUNK=self._chunk,
            MAX_CHUNKS=self._max_chunks,
            CAPACITY=self._capacity,
            BINS=_BINS,
            num_warps=_WARPS,
        )

    def _draw(
        self,
        logits: Tensor,
        slots: Tensor,
        positions: Tensor,
        out_tokens: Tensor,
        last_tokens: Tensor,
        counting: bool,
    ) -> None:
        from . import triton_sampling as kernels

        counts, seen, has_history = self._history_arguments()
        kernels.choose_rows[(len(logits),)](
            logits,
            logits.stride(0),
            slots,
            positions,
            self._table,
            self._peaks,
            self._firsts,
            self._sums,
            self._cuts,
            self._found,
            self._values,
            self._ids,
            out_tokens,
            last_tokens,
            counts,
            seen,
            self._vocab_size,
            self._chunks,
            self._unit,
            self._reach,
            CHUNK=self._chunk,
            MAX_CHUNKS=self._max_chunks,
            CAPACITY=self._capacity,
            BINS=_BINS,
            BLOCK=self._block,
            COUNTING=counting and has_history,
            num_warps=_WARPS,
        )

    @property
    def _max_chunks(self) -> int:
        return 1 << (self._chunks - 1).bit_length()

    @property
    def _unit(self) -> float:
        return 2.0 ** (SHARE_BITS - self._vocab_size.bit_length())  # as `drawing.to_weights`

    @property
    def _reach(self) -> float:
        # How far below the peak a logit still has a weight, and a little more.
        return math.log(self._unit) + 1.0

    @property
    def _bin_scale(self) -> float:
        return (_BINS - 1) / self._reach

    def _history_arguments(self) -> tuple[Tensor, Tensor, bool]:
        if self._history is None:
            return self._found, self._found, False  # not read
        return *self._history, True

    def _histories(self, slots: Sequence[int], rows: Sequence[SetRow]) -> Iterable[Tensor]:
        """Slots with penalties, places and values of their counts, and places of what they saw."""
        mine = [(slot, row) for slot, row in zip(slots, rows, strict=True) if penalised(row.params)]
        places, numbers, seen = [], [], []
        for slot, row in mine:
            first = slot * self._vocab_size
            output, number = torch.unique(self._inside(row.output_ids), return_counts=True)
            places.append(first + output)
            numbers.append(number)
            both = torch.cat([self._inside(row.prompt_ids), output])
            seen.append(first + torch.unique(both))
        slots_of_them = torch.tensor([slot for slot, _ in mine])
        return slots_of_them, torch.cat(places), torch.cat(numbers), torch.cat(seen)

    def _inside(self, ids: Sequence[int]) -> Tensor:
        tensor = torch.tensor(ids, dtype=torch.int64)
        return tensor[tensor < self._vocab_size]

    def _write_history(
        self, history: _History, slots: Tensor, places: Tensor, numbers: Tensor, seen: Tensor
    ) -> None:
        for table in history:
            table.index_fill_(0, slots, 0)
        history.counts.view(-1).index_copy_(0, places, numbers.to(torch.int32))
        history.seen.view(-1).index_fill_(0, seen, 1)

    def _upload(self, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        together = torch.cat(list(parts))
        if self._device.type == "cuda":
            # The allocator of pinned memory keeps the block until the copy is done.
            together = together.pin_memory()
        sent = together.to(self._device, non_blocking=True)
        return torch.split(sent, [len(part) for part in parts])

    def _integers(self, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._device)


def _may_be_full(row: SetRow) -> bool:
    return kind(row.params, row.banned, row.min_tokens, len(row.output_ids)) is Variant.FULL


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)

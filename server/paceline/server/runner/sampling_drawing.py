"""The launches of `triton_peaks`, `triton_candidates` and `triton_sampling`, and the room that they need."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .noise import SHARE_BITS
from .sampling_history import History

_BINS = 256
_WARPS = 8


class _Room(NamedTuple):
    """What the launches of a step leave to one another."""

    peaks: Tensor  # [R, chunks]
    firsts: Tensor
    sums: Tensor
    histograms: Tensor  # [R, chunks, bins]
    offsets: Tensor  # [R, chunks]
    cuts: Tensor  # [R]
    found: Tensor
    values: Tensor  # [R, capacity]
    ids: Tensor


class Drawing:
    """Owns the kernels' room for steps of up to `rows` rows.

    Args:
        chunk, capacity, block: see `SamplingState`.
    """

    def __init__(
        self,
        rows: int,
        vocab_size: int,
        device: torch.device,
        *,
        chunk: int,
        capacity: int,
        block: int,
    ) -> None:
        self._vocab_size = vocab_size
        self._chunk, self._capacity, self._block = chunk, capacity, block
        self._chunks = -(-vocab_size // chunk)
        self._max_chunks = 1 << (self._chunks - 1).bit_length()
        self._unit = 2.0 ** (SHARE_BITS - vocab_size.bit_length())  # as `drawing.to_weights`
        # How far below the peak a logit still has a weight, and a little more.
        self._reach = math.log(self._unit) + 1.0
        self._bin_scale = (_BINS - 1) / self._reach
        self._room = _room(rows, self._chunks, capacity, device)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._room)

    def take_peaks(
        self, logits: Tensor, slots: Tensor, out_tokens: Tensor, last_tokens: Tensor
    ) -> None:
        """Chooses for rows that are all greedy."""
        from . import triton_peaks as kernels

        self._scan(logits, slots)
        kernels.take_peaks[(len(slots),)](
            slots,
            self._room.peaks,
            self._room.firsts,
            out_tokens,
            last_tokens,
            self._chunks,
            MAX_CHUNKS=self._max_chunks,
            num_warps=1,
        )

    def draw(
        self,
        logits: Tensor,
        slots: Tensor,
        positions: Tensor,
        out_tokens: Tensor,
        last_tokens: Tensor,
        table: Tensor,
        history: History,
        counting: bool,
    ) -> None:
        """Chooses for any rows.

        Args:
            counting: whether rows may have penalties.
        """
        from . import triton_sampling as kernels

        self._scan(logits, slots)
        self._find_candidates(logits, slots, table)
        room = self._room
        kernels.choose_rows[(len(logits),)](
            logits,
            logits.stride(0),
            slots,
            positions,
            table,
            room.peaks,
            room.firsts,
            room.sums,
            room.cuts,
            room.found,
            room.values,
            room.ids,
            out_tokens,
            last_tokens,
            history.counts,
            history.seen,
            self._vocab_size,
            self._chunks,
            self._unit,
            self._reach,
            CHUNK=self._chunk,
            MAX_CHUNKS=self._max_chunks,
            CAPACITY=self._capacity,
            BINS=_BINS,
            BLOCK=self._block,
            COUNTING=counting,
            num_warps=_WARPS,
        )

    def _scan(self, logits: Tensor, slots: Tensor) -> None:
        from . import triton_peaks as kernels

        kernels.scan_chunks[len(logits), self._chunks](
            logits,
            logits.stride(0),
            slots,
            self._room.peaks,
            self._room.firsts,
            self._vocab_size,
            CHUNK=self._chunk,
            num_warps=_WARPS,
        )

    def _find_candidates(self, logits: Tensor, slots: Tensor, table: Tensor) -> None:
        from . import triton_candidates as kernels

        rows, room = len(logits), self._room
        source = (logits, logits.stride(0), slots, table, room.peaks)
        kernels.weigh_chunks[rows, self._chunks](
            *source,
            room.sums,
            room.histograms,
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
            table,
            room.histograms,
            room.offsets,
            room.cuts,
            room.found,
            self._chunks,
            CAPACITY=self._capacity,
            BINS=_BINS,
            num_warps=4,
        )
        kernels.collect_chunks[rows, self._chunks](
            *source,
            room.offsets,
            room.cuts,
            room.values,
            room.ids,
            self._vocab_size,
            self._bin_scale,
            CHUNK=self._chunk,
            MAX_CHUNKS=self._max_chunks,
            CAPACITY=self._capacity,
            BINS=_BINS,
            num_warps=_WARPS,
        )


def _room(rows: int, chunks: int, capacity: int, device: torch.device) -> _Room:
    def integers(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return _Room(
        peaks=torch.zeros(rows, chunks, device=device),
        firsts=integers(rows, chunks),
        sums=integers(rows, chunks, dtype=torch.int64),
        histograms=integers(rows, chunks, _BINS),
        offsets=integers(rows, chunks),
        cuts=integers(rows),
        found=integers(rows),
        values=torch.zeros(rows, capacity, device=device),
        ids=integers(rows, capacity),
    )

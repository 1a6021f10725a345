"""From logits on the device to tokens on the host: which kernels a step needs, and what comes back when."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..sequence import Sequence
from ..step import Row, Sampled
from .graphs import Graphs
from .sampling import RawLogprobs, raw_logprobs, to_logprobs
from .sampling_state import SamplingState
from .sampling_table import SetRow, Variant, kind
from .staging import Fields

_IN_FLIGHT = 3  # one being read, one being computed, one being launched


@dataclass(frozen=True, slots=True, eq=False)
class _Landing:
    """Where a step's tokens arrive on the host, and when."""

    tokens: Tensor
    arrived: torch.cuda.Event | None


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Log-probabilities on their way to the host."""

    raw: RawLogprobs
    rows: list[int]  # which of the sampling rows asked
    wanted: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A step's tokens, on their way."""

    landing: _Landing
    count: int
    asked: _Asked | None

    def wait(self) -> Sampled:
        """The tokens, as soon as they are here."""
        if self.landing.arrived is not None:
            self.landing.arrived.synchronize()
        tokens: list[int] = self.landing.tokens[: self.count].tolist()
        if self.asked is None:
            return Sampled(tokens)
        found = to_logprobs(self.asked.raw, self.asked.wanted)
        by_row = dict(zip(self.asked.rows, found, strict=True))
        return Sampled(tokens, [by_row.get(row) for row in range(self.count)])


class PagedSampling:
    """Owns each slot's sampling parameters and last token.

    Args:
        logits: `[rows, vocabulary]`: where every step's logits are.
    """

    def __init__(self, logits: Tensor) -> None:
        slots, vocab_size = logits.shape
        device = logits.device
        self.last_token = torch.zeros(slots, dtype=torch.int32, device=device)
        self._logits = logits
        self._out = torch.zeros(slots, dtype=torch.int32, device=device)
        self._state = SamplingState(slots, vocab_size, device)
        self._kinds = np.zeros(slots, dtype=np.int8)
        self._banned_until = np.zeros(slots, dtype=np.int32)
        self._asking: set[int] = set()  # slots that want log-probabilities
        self._guided: set[int] = set()  # slots with a constraint
        self._landings = [_landing(slots, device.type == "cuda") for _ in range(_IN_FLIGHT)]
        self._next = 0

    def joined(self, sequences: Seq[Sequence]) -> None:
        """Notes who is new in which slot. One copy to the device, nothing waits."""
        if not sequences:
            return
        rows = [_set_row(sequence) for sequence in sequences]
        for sequence, row in zip(sequences, rows, strict=True):
            slot = sequence.slot
            self._kinds[slot] = kind(row.params)
            self._banned_until[slot] = row.min_tokens if row.banned else 0
            _note(self._asking, slot, sequence.request.logprobs is not None)
            _note(self._guided, slot, sequence.guide is not None)
        self._state.set_rows([sequence.slot for sequence in sequences], rows)

    def launch(
        self, graphs: Graphs, rows: Seq[Row], host: Fields[np.ndarray], device: Fields[Tensor]
    ) -> Pending:
        """Chooses a token for each sampling row, and sends them home."""
        count = len(rows)
        slots = host.sample_slots[:count]
        variant = Variant.GREEDY
        if count:
            variant = Variant(int(self._kinds[slots].max()))
            if (host.sample_positions[:count] < self._banned_until[slots]).any():
                variant = Variant.FULL
        if self._guided and self._send_masks(rows):
            variant = Variant.GUIDED
        self._choose(graphs, device, variant)
        self._next = (self._next + 1) % _IN_FLIGHT
        landing = self._landings[self._next]
        landing.tokens[:count].copy_(self._out[:count], non_blocking=True)
        asked = self._ask(rows) if self._asking else None
        if landing.arrived is not None:
            landing.arrived.record()
        return Pending(landing, count, asked)

    def prepare(self, graphs: Graphs, device: Fields[Tensor]) -> None:
        """Captures what steps of this many rows need."""
        for variant in Variant:
            self._choose(graphs, device, variant)

    def _choose(self, graphs: Graphs, fields: Fields[Tensor], variant: Variant) -> None:
        key = ("sample", len(fields.sample_slots), variant)
        graphs.run(key, lambda: self._launch(fields, variant))

    def _launch(self, fields: Fields[Tensor], variant: Variant) -> None:
        rows = len(fields.sample_slots)
        self._state.choose(
            self._logits[:rows],
            fields.sample_slots,
            fields.sample_positions,
            self._out[:rows],
            self.last_token,
            variant,
        )

    def _send_masks(self, rows: Seq[Row]) -> bool:
        """Whether a row has a mask. The device computes the step's logits while the host makes them."""
        guided = [(i, row.sequence) for i, row in enumerate(rows) if row.sequence.guide is not None]
        if guided:
            self._state.set_masks([(i, sequence.allowed()) for i, sequence in guided])
        return bool(guided)

    def _ask(self, rows: Seq[Row]) -> _Asked | None:
        asking = [i for i, row in enumerate(rows) if row.sequence.request.logprobs is not None]
        if not asking:
            return None
        wanted = [rows[i].sequence.request.logprobs or 0 for i in asking]
        where = torch.tensor(asking, dtype=torch.int64)
        on_gpu = self._logits.device.type == "cuda"
        where = where.pin_memory().to(self._logits.device, non_blocking=True) if on_gpu else where
        raw = raw_logprobs(self._logits, self._out, where, max(wanted))
        return _Asked(to_host(raw), asking, wanted)


def to_host(raw: RawLogprobs) -> RawLogprobs:
    """On its way to the host: there when the stream has come so far."""
    on_gpu = raw.tokens.device.type == "cuda"
    return RawLogprobs(*(_to_pinned(part) for part in raw)) if on_gpu else raw


def _to_pinned(part: Tensor) -> Tensor:
    host = torch.empty(part.shape, dtype=part.dtype, pin_memory=True)
    return host.copy_(part, non_blocking=True)


def _note(slots: set[int], slot: int, belongs: bool) -> None:
    if belongs:
        slots.add(slot)
    else:
        slots.discard(slot)


def _set_row(sequence: Sequence) -> SetRow:
    request = sequence.request
    output = sequence.tokens[sequence.num_prompt :] if sequence.sampling.shapes_logits else ()
    return SetRow(
        params=sequence.sampling,
        banned=tuple(sequence.ends) if sequence.guide is None else (),  # else its mask knows
        min_tokens=request.stopping.min_tokens,
        prompt_ids=request.prompt_ids if sequence.sampling.shapes_logits else (),
        output_ids=output,
    )


def _landing(rows: int, pinned: bool) -> _Landing:
    tokens = torch.zeros(rows, dtype=torch.int32, pin_memory=pinned)
    arrived = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
    return _Landing(tokens, arrived)

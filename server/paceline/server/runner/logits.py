"""Masks, penalties, bias and bans: what changes single logits before temperature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..request import SamplingParams


class History(Protocol):
    """What a row has behind it."""

    @property
    def params(self) -> SamplingParams: ...
    @property
    def min_tokens_banned(self) -> tuple[int, ...]: ...
    @property
    def prompt_ids(self) -> Sequence[int]: ...
    @property
    def output_ids(self) -> Sequence[int]: ...
    @property
    def mask(self) -> NDArray[np.uint32] | None: ...


def adjust(logits: Tensor, rows: Sequence[History]) -> None:
    """Changes fp32 logits [R, V] in place.

    First what a mask leaves out, then the repetition penalty, presence and frequency penalties and bias, bans.
    """
    _masks(logits, rows)
    _repetition(logits, rows)
    _additions(logits, rows)
    _bans(logits, rows)


def _masks(logits: Tensor, rows: Sequence[History]) -> None:
    for index, row in enumerate(rows):
        if row.mask is not None:
            bits = row.mask.view(np.uint8)
            barred = np.unpackbits(~bits, count=logits.shape[-1], bitorder="little")
            barred_tensor = torch.from_numpy(barred.view(np.bool_)).to(logits.device)
            logits[index].masked_fill_(barred_tensor, -torch.inf)


def _repetition(logits: Tensor, rows: Sequence[History]) -> None:
    # Keskar et al. 2019, section 4.1, with transformers' rule for negative logits.
    edits = _Edits(logits)
    for index, row in enumerate(rows):
        penalty = row.params.repetition_penalty
        if penalty != 1.0:
            edits.add(index, {*row.prompt_ids, *row.output_ids}, penalty)
    if edits:
        places, penalties = edits.tensors()
        old = logits[places]
        new = torch.where(old < 0, old * penalties, old / penalties)
        logits[places] = new.clamp_(max=torch.finfo(logits.dtype).max)


def _additions(logits: Tensor, rows: Sequence[History]) -> None:
    # logit - count * frequency - (count > 0) * presence, of output tokens:
    # https://platform.openai.com/docs/api-reference/completions
    edits = _Edits(logits)
    for index, row in enumerate(rows):
        params = row.params
        amounts = dict(params.logit_bias)
        if params.presence_penalty or params.frequency_penalty:
            for token, count in Counter(row.output_ids).items():
                penalty = params.presence_penalty + count * params.frequency_penalty
                amounts[token] = amounts.get(token, 0.0) - penalty
        for token, amount in amounts.items():
            edits.add(index, (token,), amount)
    if edits:
        places, amounts_tensor = edits.tensors()
        logits[places] += amounts_tensor


def _bans(logits: Tensor, rows: Sequence[History]) -> None:
    edits = _Edits(logits)
    for index, row in enumerate(rows):
        edits.add(index, row.min_tokens_banned, -torch.inf)
    if edits:
        places, amounts = edits.tensors()
        logits[places] = amounts


class _Edits:
    """Pairs of (place, amount). No place may come twice: the order of writes is not defined."""

    def __init__(self, logits: Tensor) -> None:
        self._device = logits.device
        self._vocab_size = logits.shape[-1]
        self._rows: list[int] = []
        self._tokens: list[int] = []
        self._amounts: list[float] = []

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def add(self, row: int, tokens: Iterable[int], amount: float) -> None:
        # A tokenizer may know end-of-sequence ids past the model's last logit; nothing can choose those.
        inside = [token for token in tokens if token < self._vocab_size]
        self._tokens += inside
        self._rows += [row] * len(inside)
        self._amounts += [amount] * len(inside)

    def tensors(self) -> tuple[tuple[Tensor, Tensor], Tensor]:
        places = torch.tensor([self._rows, self._tokens], dtype=torch.int64, device=self._device)
        amounts = torch.tensor(self._amounts, dtype=torch.float32, device=self._device)
        return (places[0], places[1]), amounts

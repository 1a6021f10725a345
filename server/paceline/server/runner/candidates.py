"""Top-k, top-p and min-p on the likeliest few tokens of a row instead of the whole vocabulary.

What is kept is what transformers' warpers keep: top-k keeps every token as likely as the k-th, top-p the shortest run
of the likeliest. Which of equally likely tokens fall out at the end of that run, transformers leaves to an unstable
sort; here the higher ids do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..request import SamplingParams
from .drawing import part_of, relative_probabilities, share_tensor, to_weights
from .noise import SHARE_BITS

_TOP_P_WIDTH = 256
_GROWTH = 16


class Candidates(NamedTuple):
    """The likeliest N tokens of R rows, in the order of the vocabulary."""

    ids: Tensor  # [R, N]
    weights: Tensor  # [R, N], see `drawing`; zero where dropped
    peaks: Tensor  # [R, 1]: the largest logits after temperature
    complete: Tensor  # [R]: whether no token outside would be kept too


def first_width(params: SamplingParams, vocab_size: int) -> int:
    """How many candidates a row with a top-k or top-p filter most likely needs; depends on nothing but the row."""
    wanted = (
        params.top_k + 8 if params.top_k else _TOP_P_WIDTH
    )  # a few more, as the k-th may have ties
    return _fit(max(64, 1 << (wanted - 1).bit_length()), vocab_size)


def next_width(width: int, vocab_size: int) -> int:
    """What to try after `width` was not complete; the whole vocabulary always is."""
    return _fit(width * _GROWTH, vocab_size)


def select(logits: Tensor, params: Sequence[SamplingParams], width: int) -> Candidates:
    """Filters raw logits [R, V] of any float type; either all parameters have a top-k or none has."""
    vocab_size = logits.shape[-1]
    temperatures = temperature_tensor(params, logits.device)
    values, ids = _likeliest(logits, width, temperatures)
    relative, peaks = relative_probabilities(values)
    weights = to_weights(relative, vocab_size)
    if params[0].top_k:
        keep = _within_top_k(values, params) & (weights > 0)
        complete = _no_tie_outside(values, keep, vocab_size)
        totals = weights.masked_fill_(~keep, 0).sum(-1)
        keep &= _within_top_p(weights, totals, params)
    else:
        totals = _total_weights(logits, temperatures)
        keep = _within_top_p(weights, totals, params)
        complete = _no_tie_outside(values, keep, vocab_size)
    keep &= relative >= min_p_tensor(params, logits.device)
    # A draw runs through them in an order that whoever looks for them in another way has at no cost.
    ids, by_id = ids.sort(-1)
    weights = weights.masked_fill_(~keep, 0).gather(-1, by_id)
    return Candidates(ids, weights, peaks, complete)


def temper(logits: Tensor, temperatures: Tensor) -> Tensor:
    """New fp32 logits, divided by temperatures [R, 1]."""
    # Converted first: dividing mixed types is ten times slower on a CPU.
    return logits.float() / temperatures


def temperature_tensor(params: Sequence[SamplingParams], device: torch.device) -> Tensor:
    """Temperatures [R, 1], none so small that a logit overflows."""
    return torch.tensor([[max(p.temperature, 1e-30)] for p in params], device=device)


def min_p_tensor(params: Sequence[SamplingParams], device: torch.device) -> Tensor:
    """Least relative probabilities [R, 1] that are kept (Nguyen et al. 2024, https://arxiv.org/abs/2407.01082)."""
    return torch.tensor([[p.min_p] for p in params], device=device)


def _likeliest(logits: Tensor, width: int, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    if width == logits.shape[-1]:
        ordered = temper(logits, temperatures).sort(dim=-1, descending=True, stable=True)
        return ordered.values, ordered.indices
    # A positive temperature keeps the order, so the likeliest are found before it is applied to them alone. It may
    # make equals of neighbours, though, hence the sorting after it.
    values, ids = logits.topk(width, sorted=False)
    ids, by_id = ids.sort(-1)
    ordered = temper(values.gather(-1, by_id), temperatures).sort(
        dim=-1, descending=True, stable=True
    )
    return ordered.values, ids.gather(-1, ordered.indices)


def _within_top_k(values: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    places = share_tensor([min(p.top_k, values.shape[-1]) - 1 for p in params], values.device)
    return values >= values.gather(-1, places[:, None])


def _within_top_p(weights: Tensor, totals: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    # A token stays while less than top_p lies before it, and the first always stays.
    top_ps = [int(p.top_p * 2**SHARE_BITS) for p in params]
    limits = part_of(totals, share_tensor(top_ps, weights.device)).clamp_(min=1)
    before = weights.cumsum(-1) - weights
    return before < limits[:, None]


def _total_weights(logits: Tensor, temperatures: Tensor) -> Tensor:
    relative, _ = relative_probabilities(temper(logits, temperatures))
    return to_weights(relative, logits.shape[-1]).sum(-1)


def _no_tie_outside(values: Tensor, keep: Tensor, vocab_size: int) -> Tensor:
    if values.shape[-1] == vocab_size:
        return torch.ones_like(keep[:, 0])
    # What was left out is at most as likely as the last candidate.
    return ~(keep & (values == values[:, -1:])).any(-1)


def _fit(width: int, vocab_size: int) -> int:
    # Near the whole vocabulary, finding the likeliest costs more than sorting everything.
    return width if width * 4 < vocab_size else vocab_size

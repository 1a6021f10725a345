"""Chooses each row's next token: the last thing a step does on the device.

Rows are grouped by what they ask for, and a group pays for that alone: greedy rows for one maximum, rows with top-k
for the likeliest few. Masks come first, then transformers' order: penalties, bias and bans (`logits`), temperature,
top-k, top-p, min-p (`candidates`), then a draw (`drawing`) whose randomness is a function of seed and position
(`noise`). A row's token depends on nothing but that row.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..request import SamplingParams, TokenLogprobs
from ..step import Sampled
from .candidates import first_width, min_p_tensor, next_width, select, temper, temperature_tensor
from .drawing import draw, relative_probabilities, share_tensor, to_weights
from .logits import adjust
from .noise import share

NO_TOKEN = -1
_CPU_ELEMENTS = 2**18
_LOGPROBS_WIDTH = 64  # above the 20 that the contract allows, so that ties at the end are cut by id


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One row that gets a token.

    Args:
        position: how many tokens the completion has before this one.
        min_tokens_banned: ids that may not be chosen yet.
        prompt_ids, output_ids: read only where penalties are on.
        logprobs: how many alternatives to report; None for no log-probabilities at all.
        mask: bits of the tokens that may be chosen, as `guidance.Guide.mask` makes them; None: any.
    """

    params: SamplingParams
    position: int
    min_tokens_banned: tuple[int, ...] = ()
    prompt_ids: Sequence[int] = ()
    output_ids: Sequence[int] = ()
    logprobs: int | None = None
    mask: NDArray[np.uint32] | None = None


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> Sampled:
    """Chooses a token for each row of logits [R, V] of any float type, and waits for the result."""
    tokens = sample_tokens(logits, rows)
    asked = any(row.logprobs is not None for row in rows)
    logprobs = token_logprobs(logits, tokens, rows) if asked else None
    return Sampled(tokens.tolist(), logprobs)


def sample_tokens(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The chosen tokens [R], int64, on the device of the logits [R, V], which stay as they are.

    A row whose largest logit, before or after processing, is not a finite number gets `NO_TOKEN`: a NaN anywhere in
    it, an overflow, or nothing left to choose from. Other rows are not touched by that. The host waits for the device
    only where rows have top-k or top-p, to learn whether enough candidates were looked at.
    """
    groups: defaultdict[_Way, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[_way(row, logits.shape[-1])].append(index)
    tokens = torch.full((len(rows),), NO_TOKEN, dtype=torch.int64, device=logits.device)
    for way, indices in groups.items():
        group = [rows[index] for index in indices]
        if len(groups) == 1:
            return _choose(logits, group, way)
        where = share_tensor(indices, logits.device)
        tokens[where] = _choose(logits[where], group, way)
    return tokens


class RawLogprobs(NamedTuple):
    """Log-probabilities of A rows, still on the device."""

    tokens: Tensor  # [A], `NO_TOKEN` where a row has none
    chosen: Tensor  # [A]
    values: Tensor  # [A, N], the likeliest first, equals by id
    ids: Tensor  # [A, N]

    def cpu(self) -> RawLogprobs:
        """A copy that `to_logprobs` can read; waits for the device."""
        return RawLogprobs(*(part.cpu() for part in self))


def token_logprobs(
    logits: Tensor, tokens: Tensor, rows: Sequence[SampleRow]
) -> list[TokenLogprobs | None]:
    """Log-probabilities under the model's own logits [R, V], before any processing, for the rows that ask.

    None for rows that do not ask and for rows without a token.
    """
    results: list[TokenLogprobs | None] = [None] * len(rows)
    asking = [index for index, row in enumerate(rows) if row.logprobs is not None]
    if not asking:
        return results
    wanted = [rows[index].logprobs or 0 for index in asking]
    where = share_tensor(asking, logits.device)
    found = to_logprobs(raw_logprobs(logits, tokens, where, max(wanted)).cpu(), wanted)
    for index, one in zip(asking, found, strict=True):
        results[index] = one
    return results


def raw_logprobs(logits: Tensor, tokens: Tensor, where: Tensor, count: int) -> RawLogprobs:
    """The device's part of `token_logprobs`, which waits for nothing.

    Args:
        logits: [R, V] of any float type.
        tokens: [R], the chosen tokens.
        where: [A], int64, the rows that ask.
        count: how many alternatives the most asking of them wants.
    """
    logprobs = logits[where].float().log_softmax(-1)
    mine = tokens[where].long()
    chosen = logprobs.gather(-1, mine[:, None].clamp(min=0))[:, 0]
    return RawLogprobs(mine, chosen, *_likeliest(logprobs, count))


def to_logprobs(raw: RawLogprobs, wanted: Sequence[int]) -> list[TokenLogprobs | None]:
    """The host's part: what each of the A rows reports of tensors on the CPU, given how many it wants."""
    columns = (raw.tokens, raw.chosen, raw.ids, raw.values)
    return [
        None
        if token == NO_TOKEN
        else TokenLogprobs(chosen, tuple(zip(ids[:count], values[:count], strict=True)))
        for token, chosen, ids, values, count in zip(
            *(column.tolist() for column in columns), wanted, strict=True
        )
    ]


class _Filter(enum.Enum):
    GREEDY = enum.auto()
    WHOLE = enum.auto()  # any token may come, but for min-p
    TOP_K = enum.auto()
    TOP_P = enum.auto()


class _Way(NamedTuple):
    filter: _Filter
    adjusted: bool
    width: int  # candidates to look at first


def _way(row: SampleRow, vocab_size: int) -> _Way:
    params = row.params
    adjusted = params.shapes_logits or bool(row.min_tokens_banned) or row.mask is not None
    if params.greedy:
        return _Way(_Filter.GREEDY, adjusted, 1)
    if 0 < params.top_k < vocab_size:
        return _Way(_Filter.TOP_K, adjusted, first_width(params, vocab_size))
    if params.top_p < 1.0:
        return _Way(_Filter.TOP_P, adjusted, first_width(params, vocab_size))
    return _Way(_Filter.WHOLE, adjusted, vocab_size)


def _choose(logits: Tensor, rows: Sequence[SampleRow], way: _Way) -> Tensor:
    if way.adjusted:
        logits = logits.to(torch.float32, copy=True)
        adjust(logits, rows)
    if way.filter is _Filter.GREEDY:
        return _greedy(logits)
    params = [row.params for row in rows]
    shares = share_tensor([share(row.params.seed, row.position) for row in rows], logits.device)
    height = len(rows) if way.filter is _Filter.TOP_K else _rows_at_once(logits)
    return torch.cat(
        [
            _draw(
                logits[top : top + height],
                params[top : top + height],
                way,
                shares[top : top + height],
            )
            for top in range(0, len(rows), height)
        ]
    )


def _greedy(logits: Tensor) -> Tensor:
    """The first of a row's largest; NaN wins over any number, and then there is none."""
    if logits.device.type == "cpu" and logits.dtype is torch.float32:
        # NumPy's is vectorised: several times as fast as torch's.
        tokens = torch.from_numpy(logits.numpy().argmax(-1))
        return _or_no_token(tokens, logits.gather(-1, tokens[:, None])[:, 0])
    peaks, tokens = logits.max(-1)
    return _or_no_token(tokens, peaks)


def _rows_at_once(logits: Tensor) -> int:
    # On a CPU, fp32 copies of a few rows stay in the cache and in the allocator's arena: five times faster than fresh
    # pages for all rows.
    rows, vocab_size = logits.shape
    return max(1, _CPU_ELEMENTS // vocab_size) if logits.device.type == "cpu" else rows


def _draw(logits: Tensor, params: Sequence[SamplingParams], way: _Way, shares: Tensor) -> Tensor:
    if way.filter is _Filter.WHOLE:
        return _draw_from_all(logits, params, shares)
    return _draw_from_candidates(logits, params, shares, way.width)


def _draw_from_all(logits: Tensor, params: Sequence[SamplingParams], shares: Tensor) -> Tensor:
    tempered = temper(logits, temperature_tensor(params, logits.device))
    relative, peaks = relative_probabilities(tempered)
    if any(p.min_p for p in params):
        relative.masked_fill_(relative < min_p_tensor(params, logits.device), 0.0)
    return _or_no_token(draw(to_weights(relative, logits.shape[-1]), shares), peaks[:, 0])


def _draw_from_candidates(
    logits: Tensor, params: Sequence[SamplingParams], shares: Tensor, width: int
) -> Tensor:
    found = select(logits, params, width)
    places = draw(found.weights, shares)
    tokens = _or_no_token(found.ids.gather(-1, places[:, None])[:, 0], found.peaks[:, 0])
    short = [index for index, complete in enumerate(found.complete.tolist()) if not complete]
    if short:
        where = share_tensor(short, logits.device)
        tokens[where] = _draw_from_candidates(
            logits[where],
            [params[index] for index in short],
            shares[where],
            next_width(width, logits.shape[-1]),
        )
    return tokens


def _or_no_token(tokens: Tensor, peaks: Tensor) -> Tensor:
    return tokens.masked_fill_(~peaks.isfinite(), NO_TOKEN)


def _likeliest(logprobs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    if not count:
        return logprobs[:, :0], logprobs[:, :0].long()
    values, ids = logprobs.topk(min(max(count, _LOGPROBS_WIDTH), logprobs.shape[-1]))
    ids, by_id = ids.sort(-1)
    values, by_value = values.gather(-1, by_id).sort(dim=-1, descending=True, stable=True)
    return values[:, :count], ids.gather(-1, by_value)[:, :count]

"""From a step's logits to its tokens on the host, and steps without content: what runners without graphs share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..pages import PADDING_PAGE
from ..request import Request, SamplingParams, StoppingParams, TokenLogprobs
from ..sequence import Sequence as Completion
from ..step import Rectangle, Row, Sampled, Step
from .sampling import RawLogprobs, SampleRow, raw_logprobs, sample, to_logprobs

logger = logging.getLogger(__name__)


def choose(
    logits: Tensor, scores: Tensor, step: Step, heal: Callable[[Sequence[int]], None]
) -> Sampled:
    """The next tokens of a step, and the log-probabilities of prompt tokens.

    Args:
        logits: `[sampling rows, vocabulary]`.
        scores: logits of the step's `scored_places`, `[places, vocabulary]`.
        heal: told the pages of rows without finite logits, before anybody else gets them.
    """
    rows = step.sampling_rows
    prompts = prompt_logprobs(step, raw_prompt_logprobs(scores, step)) if len(scores) else ()
    if not rows:
        return Sampled([], prompt_logprobs=prompts)
    sampled = sample(logits, [_sample_row(row) for row in rows])
    for row, token in zip(rows, sampled.token_ids, strict=True):
        if token < 0:
            logger.error("request=%s got no finite logits", row.sequence.request.id)
            heal(row.pages)
    return Sampled(sampled.token_ids, sampled.logprobs, prompts)


def choose_largest(logits: NDArray[np.float32], step: Step) -> Sampled | None:
    """The same where every row takes the largest of its logits, with as few calls as can be; None: `choose` must look.

    Args:
        logits: `[at least sampling rows, vocabulary]`.
    """
    rows = step.sampling_rows
    if step.scored_rows or not all(row.sequence.takes_largest for row in rows):
        return None
    tokens = logits[: len(rows)].argmax(-1).tolist()
    # What is not a number is the largest to NumPy.
    if not all(math.isfinite(logits[at, token]) for at, token in enumerate(tokens)):
        return None
    return Sampled(tokens)


def raw_prompt_logprobs(scores: Tensor, step: Step) -> RawLogprobs:
    """Of a step with `scored_rows`, on the device; waits for nothing. `scores` as in `choose`."""
    targets = [
        token
        for row, _ in step.scored_rows
        for token in row.sequence.tokens[row.start + 1 : row.start + 1 + row.scored]
    ]
    tokens = torch.tensor(targets, dtype=torch.int64).to(scores.device, non_blocking=True)
    most = max(_wanted(row) for row, _ in step.scored_rows)
    return raw_logprobs(scores, tokens, torch.arange(len(scores), device=scores.device), most)


def prompt_logprobs(step: Step, raw: RawLogprobs) -> list[tuple[Row, list[TokenLogprobs | None]]]:
    """The host's part: what `Sampled` has of them."""
    wanted = [_wanted(row) for row, _ in step.scored_rows for _ in range(row.scored)]
    found = iter(to_logprobs(raw.cpu(), wanted))
    return [(row, list(islice(found, row.scored))) for row, _ in step.scored_rows]


def _wanted(row: Row) -> int:
    return row.sequence.request.prompt_logprobs or 0


def empty_step(height: int, width: int, page_size: int) -> Step:
    """A step of `height` rows of `width` tokens in the padding page, for warming up."""
    request = Request("warm-up", (0,) * width, SamplingParams(), StoppingParams(1), 0.0)
    sequence = Completion(request, 0, 0)
    sequence.pages = [PADDING_PAGE] * -(-width // page_size)
    row = Row(sequence, 0, width, True, len(sequence.pages))
    rectangle = Rectangle((row,) * height, height, width)
    return Step((rectangle,), rectangle.area)


def _sample_row(row: Row) -> SampleRow:
    sequence = row.sequence
    request = sequence.request
    return SampleRow(
        params=sequence.sampling,
        position=row.position,
        min_tokens_banned=sequence.banned if sequence.guide is None else (),
        prompt_ids=request.prompt_ids,
        output_ids=sequence.tokens[sequence.num_prompt :]
        if sequence.sampling.shapes_logits
        else (),
        logprobs=request.logprobs,
        mask=sequence.allowed() if sequence.guide is not None else None,
    )

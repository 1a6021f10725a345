"""From a step's logits to its tokens on the host, and steps without content: what runners without graphs share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from torch import Tensor

from ..pages import PADDING_PAGE
from ..request import Request, SamplingParams, StoppingParams
from ..sequence import Sequence as Completion
from ..step import Rectangle, Row, Sampled, Step
from .sampling import SampleRow, sample

logger = logging.getLogger(__name__)


def choose(logits: Tensor, step: Step, heal: Callable[[Sequence[int]], None]) -> Sampled:
    """The next tokens of a step, from logits `[sampling rows, vocabulary]`.

    Args:
        heal: told the pages of rows without finite logits, before anybody else gets them.
    """
    rows = step.sampling_rows
    if not rows:
        return Sampled([])
    sampled = sample(logits, [_sample_row(row) for row in rows])
    for row, token in zip(rows, sampled.token_ids, strict=True):
        if token < 0:
            logger.error("request=%s got no finite logits", row.sequence.request.id)
            heal(row.pages)
    return sampled


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
        min_tokens_banned=sequence.banned,
        prompt_ids=request.prompt_ids,
        output_ids=sequence.tokens[sequence.num_prompt :]
        if sequence.sampling.shapes_logits
        else (),
        logprobs=request.logprobs,
    )

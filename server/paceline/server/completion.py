"""One completion on its way to the caller: the engine's outputs in, deltas of tokens and text out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from .job import Job
from .request import Finish, FinishReason, Output, TokenLogprobs
from .stops import StopSet
from .text_stream import Detokenizer, TextStream

_ENDED_BY_TOKEN = (FinishReason.EOS, FinishReason.STOP_TOKEN)


class Delta(msgspec.Struct, frozen=True):
    """What one completion gained: `num_tokens` new tokens after `offset` earlier ones, and text that became certain.

    The prompt's echo is a delta too, of no tokens: its ids and text come before the first generated ones.
    """

    index: int
    offset: int
    num_tokens: int
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: Finish | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()  # with the first token, see `Output`


class Completion:
    """Follows completion `index` of a job. Stop strings are matched here, for the engine knows no text."""

    def __init__(self, job: Job, index: int, tokenizer: Detokenizer, stops: StopSet) -> None:
        self.index = index
        self.finish: Finish | None = None
        self._job = job
        self._tokens = 0
        self._text: TextStream | None = None
        if job.response.text or stops:
            self._text = TextStream(
                tokenizer,
                skip_special=job.response.skip_special,
                stops=stops,
                min_tokens=job.request.stopping.min_tokens,
                include_stop=job.include_stop,
            )

    @property
    def matched(self) -> bool:
        """Whether a stop string was found: the engine need not go on."""
        return self._text is not None and self._text.match is not None

    def echo(self) -> Delta:
        """The prompt as the beginning of the answer. Before the first `take`."""
        ids = self._job.request.prompt_ids
        text = self._text.prime(ids) if self._text is not None else ""
        return Delta(self.index, 0, 0, ids, text if self._job.response.text else "")

    def take(self, outputs: Sequence[Output]) -> Delta | None:
        """The delta of these outputs, in order; None if nothing came of them."""
        if self.finish is not None:
            return None
        ids = [token for output in outputs for token in output.token_ids]
        logprobs = [entry for output in outputs for entry in output.logprobs]
        end = outputs[-1].finish
        was_matched, offset = self.matched, self._tokens
        text = self._read(ids, end)
        if was_matched:
            ids = []
        elif self._text is not None and self._text.match is not None:
            ids = ids[: self._text.match.tokens - offset]
        self._tokens += len(ids)
        if end is not None:
            self.finish = self._ending(end)
        if not ids and not text and end is None:
            return None
        return Delta(
            self.index,
            offset,
            len(ids),
            tuple(ids),
            text if self._job.response.text else "",
            tuple(logprobs[: len(ids)]),
            self.finish,
            outputs[0].prompt_logprobs,
        )

    def _read(self, ids: list[int], end: Finish | None) -> str:
        if self._text is None:
            return ""
        last_is_text = end is None or end.reason not in _ENDED_BY_TOKEN or self._job.include_stop
        text = self._text.push(ids if last_is_text else ids[:-1])
        return text if end is None else text + self._text.finish()

    def _ending(self, end: Finish) -> Finish:
        match = None if self._text is None else self._text.match
        if match is None:
            return end
        # The engine may have made a few tokens more before it heard of the match.
        return replace(
            end,
            reason=FinishReason.STOP_SEQUENCE,
            stop_sequence=match.stop,
            stop_token_id=None,
            usage=replace(end.usage, completion_tokens=match.tokens),
            error=None,
        )

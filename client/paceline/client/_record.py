"""What a stream has told so far. Both kinds of stream are one, and differ only in how they wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from paceline.client import _answers
from paceline.client.results import Chunk, Finish, Timings, TokenLogprobs, Usage
from paceline.v1 import generation_pb2 as pb


@dataclass(slots=True, eq=False)
class StreamRecord:
    """Header, text and summary of a stream, filled as it is read; `usage` and `timings` come with its end."""

    request_id: str = ""
    model: str = ""
    seed: int | None = None
    prompt_tokens: int | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    texts: dict[int, str] = field(default_factory=dict)
    """Text so far, by completion."""
    finishes: dict[int, Finish] = field(default_factory=dict)
    """How completions ended, by completion."""
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    """As in `Generation`; they come with the first token."""

    @property
    def text(self) -> str:
        """The first completion's text so far."""
        return self.texts.get(0, "")

    @property
    def finish(self) -> Finish | None:
        """How the first completion ended; None while it goes on."""
        return self.finishes.get(0)

    def _take(self, message: pb.GenerateStreamResponse) -> Chunk | None:
        if message.HasField("header"):
            self.request_id = message.header.request_id
            self.model = message.header.model
            self.seed = message.header.seed
            self.prompt_tokens = message.header.prompt_tokens
        if message.HasField("summary"):
            self.usage = _answers.usage(message.summary.usage)
            self.timings = _answers.timings(message.summary.timings)
        if message.prompt_logprobs:
            self.prompt_logprobs = _answers.prompt_logprobs(message.prompt_logprobs)
        chunk = _answers.chunk(message)
        if chunk is not None:
            self.texts[chunk.index] = self.texts.get(chunk.index, "") + chunk.text
            if chunk.finish is not None:
                self.finishes[chunk.index] = chunk.finish
        return chunk

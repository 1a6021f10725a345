"""What a caller may ask for. Options not given are not sent: the server's defaults hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

# Text, token ids, or a conversation of {"role": ..., "content": ...} messages.
Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]


class CallOptions(TypedDict, total=False):
    """Options of every call."""

    timeout_s: float | None
    """Deadline in seconds, enforced by the server too. Not given: the client's own. None: no deadline."""


class GenerationOptions(TypedDict, total=False):
    """How tokens are chosen, when generation stops, and what is sent back."""

    temperature: float
    """0 is greedy; the server's default is 1."""
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    """Completion i draws with seed + i. Not given: the server chooses one and says which."""
    n: int
    """How many completions of the prompt."""
    max_tokens: int
    min_tokens: int
    stop: str | Sequence[str]
    """Generation ends when one of these appears in the text."""
    stop_token_ids: Sequence[int]
    include_stop: bool
    ignore_eos: bool
    return_text: bool
    """Send text; the server's default is to."""
    return_token_ids: bool
    """Send token ids; the server's default is not to."""
    logprobs: int
    """Send each token's log-probability and those of so many alternatives."""
    prompt_logprobs: int
    """The same for the prompt's tokens."""
    echo: bool
    """Begin the answer with the prompt."""
    skip_special_tokens: bool
    continue_final_message: bool
    """Chat only: the answer continues the last message instead of opening the assistant's turn."""
    choice: Sequence[str]
    """Guided decoding: the answer is one of these."""
    regex: str
    """Guided decoding: the answer matches this as a whole."""
    json_schema: str | Mapping[str, Any]
    """Guided decoding: the answer is JSON of this schema."""
    request_id: str
    """Name for `abort` and the server's log. Not given: the server makes one."""
    priority: int
    """Smaller is served sooner; -100 to 100."""
    time_limit_ms: int
    """After so many milliseconds generation ends with what there is (no error, unlike `timeout_s`)."""
    truncate_prompt_tokens: int
    """Keep only the last so many prompt tokens."""


class GenerationCallOptions(GenerationOptions, CallOptions, total=False):
    """Options of one generating call."""


@dataclass(frozen=True, slots=True, init=False)
class Item:
    """One prompt of a batch with options of its own, which win over those of the whole batch."""

    prompt: Prompt
    options: GenerationOptions

    def __init__(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> None:
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "options", options)

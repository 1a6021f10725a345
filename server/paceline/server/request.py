"""Domain types: what a request asks for, what the engine answers. No protobuf, torch or asyncio."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

import msgspec

# Upper bounds of a step's duration in `Load.step_bins`; one more bin holds longer ones.
STEP_SECONDS = tuple(base * 10.0**power for power in range(-4, 2) for base in (1.0, 2.0, 5.0))


class FinishReason(enum.Enum):
    """Why a completion ended. The names are the contract's, without their prefix."""

    EOS = "eos"
    STOP_SEQUENCE = "stop_sequence"
    STOP_TOKEN = "stop_token"
    MAX_TOKENS = "max_tokens"
    CONTEXT_LIMIT = "context_limit"
    TIME_LIMIT = "time_limit"
    CANCELLED = "cancelled"
    ABORTED = "aborted"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one completion's tokens are chosen; `temperature` 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def filters(self) -> bool:
        """Whether top-k, top-p or min-p drop tokens."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

    @property
    def shapes_logits(self) -> bool:
        """Whether penalties or bias change the logits before temperature."""
        return bool(
            self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
        )


@dataclass(frozen=True, slots=True)
class StoppingParams:
    """When a completion ends by its tokens. Stop strings are matched in `tokenizer`, with the text."""

    max_tokens: int
    min_tokens: int = 0
    eos_token_ids: frozenset[int] = frozenset()
    stop_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a completion must be: one of `texts` (choice), or what the one text there describes."""

    kind: Literal["choice", "regex", "json_schema"]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and its n completions. Times are seconds of one monotonic clock."""

    id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    stopping: StoppingParams
    arrival: float
    n: int = 1
    logprobs: int | None = None  # alternatives per token; None: no log-probabilities at all
    priority: int = 0  # smaller first
    deadline: float | None = None  # past it the request fails with DEADLINE_EXCEEDED
    time_limit: float | None = None  # past it the completion ends with TIME_LIMIT
    constraint: Constraint | None = None
    # As `logprobs`, for the prompt's tokens; with completion 0 alone.
    prompt_logprobs: int | None = None

    def late(self, now: float) -> bool:
        """Whether the deadline has passed for the caller, who may be gone before it has here.

        gRPC rounds a deadline up on its way, by as much as one part in a hundred.
        """
        if self.deadline is None:
            return False
        return now >= self.deadline - max(0.02, 0.01 * (self.deadline - self.arrival))


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities of a token and of the likeliest ones at its place, likeliest first."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one completion."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, measured by the engine; zero where a phase was never reached."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    ttft_s: float = 0.0
    total_s: float = 0.0
    batch_rows_mean: float = 0.0
    batch_rows_max: int = 0
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of one completion. `error` is set where the call must fail, not end with OK."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    stop_token_id: int | None = None
    error: Exception | None = None
    stop_sequence: str | None = None  # set by the front end, which matches stop strings

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None without such tokens."""
        later = self.usage.completion_tokens - 1
        return self.timings.decode_s / later if later > 0 else None


class Output(msgspec.Struct, frozen=True):
    """What one step made for one completion: new tokens, perhaps the end.

    `prompt_logprobs`, where asked for, come with the first token: one for each prompt token, None for its first.

    A struct, not a dataclass: a step makes one for each row, and these are made ten times as fast.
    """

    request_id: str
    index: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: Finish | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """A snapshot of the engine: gauges of the moment, counters since start (see GetLoadResponse)."""

    time_s: float = 0.0
    running: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    pages_used: int = 0
    pages_total: int = 0
    step_rows: int = 0
    step_padded_rows: int = 0
    steps: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    requests_finished: int = 0
    requests_rejected: int = 0
    step_s: float = 0.0
    draining: bool = False
    row_steps: int = 0
    queue_wait_s: float = 0.0
    # Steps by their duration, see `STEP_SECONDS`; empty: none yet.
    step_bins: tuple[int, ...] = ()
    # By padded tokens; 0: all other shapes.
    bucket_steps: dict[int, int] = field(default_factory=dict)
    replicas: tuple[Load, ...] = ()  # where several engines make up the rest: each one's


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the runner loaded."""

    name: str
    architecture: str
    num_parameters: int
    dtype: str
    device: str
    vocab_size: int
    max_context_tokens: int
    eos_token_ids: tuple[int, ...]
    num_layers: int
    hidden_size: int
    versions: dict[str, str] = field(default_factory=dict)

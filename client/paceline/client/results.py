"""What the server answers, as frozen values. Durations carry their unit in the name."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class FinishReason(enum.Enum):
    """Why a completion ended."""

    UNKNOWN = "unknown"  # a reason newer than this client
    EOS = "eos"
    STOP_SEQUENCE = "stop_sequence"
    STOP_TOKEN = "stop_token"
    MAX_TOKENS = "max_tokens"
    CONTEXT_LIMIT = "context_limit"
    TIME_LIMIT = "time_limit"
    CANCELLED = "cancelled"
    ABORTED = "aborted"
    ERROR = "error"


class BatchingMode(enum.Enum):
    """How the server lets waiting requests join the running batch."""

    UNKNOWN = "unknown"  # a mode newer than this client
    SEQUENTIAL = "sequential"
    STATIC = "static"
    DYNAMIC = "dynamic"
    CONTINUOUS = "continuous"


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a completion ended, and which stop string or stop token ended it."""

    reason: FinishReason
    stop_sequence: str | None = None
    stop_token_id: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and the natural logarithm of the model's own probability for it."""

    token_id: int
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token and the likeliest alternatives at its place, likeliest first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a request; `completion_tokens` is over all its completions."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the server's time went, in milliseconds, and the company the request had in its batches."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    ttft_ms: float
    total_ms: float
    batch_rows_mean: float
    batch_rows_max: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One of a request's n answers. `token_ids` and `logprobs` are filled where they were asked for."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    num_tokens: int
    logprobs: tuple[TokenLogprobs, ...]
    finish: Finish
    seed: int


@dataclass(frozen=True, slots=True)
class Generation:
    """The whole answer to one prompt: its completions in order, and what they took."""

    request_id: str
    model: str
    completions: tuple[Completion, ...]
    usage: Usage
    timings: Timings
    seed: int
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    """One for each prompt token, where asked for; None for the first, as nothing comes before it."""

    @property
    def text(self) -> str:
        """The first completion's text."""
        return self.completions[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The first completion's token ids; empty unless asked for."""
        return self.completions[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first completion ended."""
        return self.completions[0].finish.reason


@dataclass(frozen=True, slots=True)
class Chunk:
    """One message of a stream: what became certain of completion `index` since its last chunk.

    `num_tokens` counts tokens whose text may still be held back, `offset` those before this chunk.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    num_tokens: int
    offset: int
    logprobs: tuple[TokenLogprobs, ...]
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's token ids; texts and (start, end) character offsets where `details` were asked for."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The served model and its limits."""

    name: str
    architecture: str
    num_parameters: int
    dtype: str
    vocab_size: int
    max_context_tokens: int
    eos_token_ids: tuple[int, ...]
    has_chat_template: bool
    num_layers: int
    hidden_size: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """How the model is served: versions, device, batching mode and bounds."""

    version: str
    mode: BatchingMode
    max_batch_size: int
    max_wait_ms: float
    max_step_tokens: int
    max_queue_requests: int
    max_queue_tokens: int
    default_max_tokens: int
    page_size: int
    num_pages: int
    device: str
    num_threads: int
    uptime_s: float
    versions: Mapping[str, str]
    features: tuple[str, ...]
    replicas: int = 1  # engines behind the port; bounds, pages and threads are those of each one


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine does now, and counters since start, which never go back.

    Differences of two samples give rates: output tokens/s = Δoutput_tokens / Δtime_s, mean batch size =
    Δrow_steps / Δsteps, padding waste = 1 - Δreal_tokens / Δpadded_tokens.
    """

    time_s: float
    running: int
    waiting: int
    waiting_tokens: int
    pages_used: int
    pages_total: int
    step_rows: int
    step_padded_rows: int
    steps: int
    real_tokens: int
    padded_tokens: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    preemptions: int
    requests_finished: int
    requests_rejected: int
    step_s: float
    draining: bool
    row_steps: int
    queue_wait_s: float

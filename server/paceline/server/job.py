"""What a checked call asks for: the engine's request and what only the front end needs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidRequest, Violation
from .request import Constraint, Request, SamplingParams, StoppingParams


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of this server that a request is checked against."""

    vocab_size: int
    max_context: int  # prompt and output together
    max_queue_requests: int
    max_queue_tokens: int
    default_max_tokens: int
    eos_token_ids: frozenset[int]
    has_chat_template: bool
    guided: bool = False  # whether completions can be constrained


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as (role, content), oldest first."""

    messages: tuple[tuple[str, str], ...]
    continue_final_message: bool = False


Prompt = str | tuple[int, ...] | Conversation


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """What is sent back."""

    text: bool = True
    token_ids: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False
    skip_special: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """A request that is ready for the engine, with what becomes of its tokens."""

    request: Request
    response: ResponseOptions
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    chat: bool = False  # whether the prompt was a conversation


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked generation whose prompt is still to be encoded. `prompt_field` is its path in the message."""

    request_id: str
    prompt: Prompt
    prompt_field: str
    sampling: SamplingParams
    stopping: StoppingParams
    response: ResponseOptions
    stop: tuple[str, ...]
    include_stop: bool
    n: int
    priority: int
    time_limit_s: float | None
    truncate_prompt_tokens: int
    constraint: Constraint | None = None

    def job(
        self, prompt_ids: list[int], limits: Limits, *, arrival: float, deadline: float | None
    ) -> Job:
        """The job for this prompt. InvalidRequest if the prompt is empty or does not fit."""
        ids = tuple(prompt_ids)
        if self.truncate_prompt_tokens:
            ids = ids[-self.truncate_prompt_tokens :]
        self._check_length(len(ids), limits)
        request = Request(
            id=self.request_id,
            prompt_ids=ids,
            sampling=self.sampling,
            stopping=self.stopping,
            arrival=arrival,
            n=self.n,
            logprobs=self.response.logprobs,
            prompt_logprobs=self.response.prompt_logprobs,
            priority=self.priority,
            deadline=deadline,
            time_limit=None if self.time_limit_s is None else arrival + self.time_limit_s,
            constraint=self.constraint,
        )
        chat = isinstance(self.prompt, Conversation)
        return Job(request, self.response, self.stop, self.include_stop, chat)

    def _check_length(self, tokens: int, limits: Limits) -> None:
        problem = None
        if not tokens:
            problem = "the prompt is empty"
        elif tokens >= limits.max_context:
            problem = f"the prompt has {tokens} tokens; the context holds {limits.max_context}, output included"
        elif self.n * tokens > limits.max_queue_tokens:
            problem = (
                f"{self.n} x {tokens} prompt tokens can never be queued; "
                f"this server queues {limits.max_queue_tokens}"
            )
        if problem is not None:
            raise InvalidRequest(Violation(self.prompt_field, problem))

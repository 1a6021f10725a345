"""One completion in the making: the scheduler's mutable state for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .request import (
    Finish,
    FinishReason,
    Output,
    Request,
    SamplingParams,
    Timings,
    TokenLogprobs,
    Usage,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .guidance import Guide


@dataclass(eq=False, slots=True)
class Sequence:
    """Completion `index` of a request. Owned by the scheduler; all times are seconds of its clock.

    Planning is optimistic: a step counts as done once it is planned. So with steps in flight there are
    `len(tokens) + pending` tokens, of which the host does not know the last `pending` yet.

    Invariant: keys and values of positions 0 .. num_computed - 1 are in `pages`, or a launched step
    writes them there.
    """

    # What every step reads or writes comes first: 256 of these are more than a cache holds.
    request: Request
    index: int
    order: int  # of arrival; what was there first goes first
    request_id: str = field(init=False)
    tokens: list[int] = field(init=False)  # prompt, then output
    ends: frozenset[int] = field(init=False)  # tokens after which nothing follows
    num_prompt: int = field(init=False)
    limit: int = 2**62  # tokens, prompt and output together, at which it ends
    num_computed: int = 0
    # Tokens chosen by steps that were not read back. 0 or 1 whenever a step is planned; 2 between
    # the planning of a step and the read-back of the one before it.
    pending: int = 0
    # Of a constrained one: it knows the tokens that the host knows, so none is chosen while one is pending.
    guide: Guide | None = None
    first_token: float | None = None
    last_token: float | None = None
    slot: int = -1  # its number among the running ones, 0 .. max_batch_size - 1; -1 while it waits
    # In the queue, and in the order of rows; smaller goes first.
    place: tuple[float, int] = (0.0, 0)
    sampling: SamplingParams = field(init=False)
    plain: bool = field(init=False)  # greedy, without anything else
    expires: float = field(init=False)  # at its deadline or time limit; infinity without either
    queued: bool = True  # until it first joins
    pages: list[int] = field(default_factory=list)
    num_registered: int = 0  # full pages the prefix cache knows
    chain: int = 0  # prefix-cache node of the last registered page
    cached_tokens: int = 0
    preemptions: int = 0
    first_scheduled: float | None = None
    steps: int = 0  # while it ran
    rows_seen: int = 0  # sum over these steps of their rows, itself included
    rows_max: int = 0
    stay: int = (
        -1
    )  # number of its latest joining, of all joinings: a runner tells tenants of a slot apart by it
    joined_steps: int = 0  # the counters of all steps and of all their rows, when it last joined
    joined_rows: int = 0
    # By position in the prompt, as far as it was computed; empty where not asked for, and once they are handed out.
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.sampling = replace(sampling, seed=(sampling.seed + self.index) % 2**64)
        self.plain = (
            sampling.greedy and not sampling.shapes_logits and self.request.logprobs is None
        )
        self.request_id = self.request.id
        self.tokens = list(self.request.prompt_ids)
        self.num_prompt = len(self.tokens)
        limits = (self.request.deadline, self.request.time_limit)
        self.expires = min((t for t in limits if t is not None), default=float("inf"))
        stopping = self.request.stopping
        self.ends = stopping.eos_token_ids
        if stopping.stop_token_ids:
            self.ends |= stopping.stop_token_ids
        if self.guide is not None:
            self.follow(self.guide)
        if self.request.prompt_logprobs is not None and self.index == 0:
            self.prompt_logprobs = [None]  # nothing comes before the first token

    def follow(self, guide: Guide) -> None:
        """Its constraint is compiled."""
        self.guide = guide
        self.ends |= guide.ends

    @property
    def compiling(self) -> bool:
        """Whether its constraint is not compiled yet."""
        return self.guide is None and self.request.constraint is not None

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def prefilling(self) -> bool:
        """Whether the prompt (or, after a preemption, what was there) is still being computed."""
        remaining = len(self.tokens) + self.pending - self.num_computed
        return remaining > 1 or self.num_output + self.pending == 0

    @property
    def takes_largest(self) -> bool:
        """Whether its next token is simply that of the largest logit, and nobody asks how likely it is."""
        return self.plain and self.guide is None and not self.banned

    @property
    def banned(self) -> tuple[int, ...]:
        """Tokens that may not be chosen yet, because fewer than `min_tokens` were."""
        stopping = self.request.stopping
        if self.num_output >= stopping.min_tokens:
            return ()
        return tuple(self.ends)

    def allowed(self) -> NDArray[np.uint32]:
        """The mask of a constrained sequence's next token, see `Guide.mask`."""
        assert self.guide is not None
        ignores_eos = not self.request.stopping.eos_token_ids
        return self.guide.mask(self.banned or (self.guide.ends if ignores_eos else ()))

    def end_reason(self, max_context: int) -> FinishReason | None:
        """Why the newest token is the last one, or None."""
        token, stopping = self.tokens[-1], self.request.stopping
        if token in stopping.stop_token_ids:
            return FinishReason.STOP_TOKEN
        if token in stopping.eos_token_ids or (self.guide and token in self.guide.ends):
            return FinishReason.EOS
        if self.num_output >= stopping.max_tokens:
            return FinishReason.MAX_TOKENS
        if len(self.tokens) >= max_context:
            return FinishReason.CONTEXT_LIMIT
        return None

    def finish(self, reason: FinishReason, now: float, error: Exception | None = None) -> Finish:
        """The completion's end, with its counts and times."""
        stop_token = self.tokens[-1] if reason is FinishReason.STOP_TOKEN else None
        usage = Usage(self.num_prompt, self.num_output, self.cached_tokens)
        return Finish(reason, usage, self._timings(now), stop_token, error)

    def ended(self, reason: FinishReason, now: float, error: Exception | None = None) -> Output:
        """An output that carries no token, just the end."""
        return Output(self.request.id, self.index, finish=self.finish(reason, now, error))

    def _timings(self, now: float) -> Timings:
        arrival = self.request.arrival
        scheduled = now if self.first_scheduled is None else self.first_scheduled
        first = self.first_token
        last = self.last_token
        return Timings(
            queue_s=scheduled - arrival,
            prefill_s=(now if first is None else first) - scheduled,
            decode_s=0.0 if first is None or last is None else last - first,
            ttft_s=0.0 if first is None else first - arrival,
            total_s=now - arrival,
            batch_rows_mean=self.rows_seen / self.steps if self.steps else 0.0,
            batch_rows_max=self.rows_max,
            preemptions=self.preemptions,
        )

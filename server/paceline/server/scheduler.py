"""Plans steps: who joins, who computes what, who gives up its pages. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .bounds import StepBounds
from .config import EngineConfig
from .deterministic import DeterministicPlanner
from .errors import (
    DeadlineExceeded,
    EngineFailure,
    InvalidRequest,
    OutOfMemory,
    PacelineError,
    Violation,
)
from .lifecycle import Lifecycle
from .pages import PagePool
from .planner import MixedPlanner, Planner
from .policy import Queue, make_policy
from .rectangles import Buckets
from .request import FinishReason, Load, Output, Request, TokenLogprobs
from .residency import Residency
from .sequence import Sequence
from .step import Sampled, Step

if TYPE_CHECKING:
    from .guidance import Guide

_MOST_TRIES = 3  # of a sequence that runs out of memory though it is computed alone


class Scheduler:
    """Owns every sequence and every page. Call order: `expire`, `plan`, run the step, `apply`.

    A step may be planned, and launched, before the one before it is applied. Each planned step is then
    given to one of `apply`, `fail` and `out_of_memory`, in the order of planning. After one of the last
    two, whatever is in flight is given back before the next step is planned.

    Args:
        config: bounds and mode.
        pages: the pool; nobody else touches it.
        max_context: tokens a sequence may grow to, prompt and output together.
        buckets: sizes steps are padded to.
        on_leave_queue: told once for each sequence, when it first joins or ends before that.
    """

    def __init__(
        self,
        config: EngineConfig,
        pages: PagePool,
        max_context: int,
        buckets: Buckets,
        on_leave_queue: Callable[[Sequence], None] = lambda _: None,
    ) -> None:
        # A lone sequence always fits, so whoever preempts all others gets on.
        self.max_context = min(max_context, pages.capacity * pages.page_size)
        self.bounds = StepBounds(config)
        self._policy = make_policy(config)
        self._pages = pages
        self._residency = Residency(pages, config.prefill_chunk if config.deterministic else None)
        self._life = Lifecycle(
            self._residency,
            self.max_context,
            config.max_batch_size,
            on_leave_queue,
            ageing_s=config.ageing_s,
        )
        self._waiting, self._running = self._life.waiting, self._life.running
        self._compiling = self._life.compiling
        self._counters = self._life.counters
        self._planner: Planner
        if config.deterministic:
            self._planner = DeterministicPlanner(self._life, pages, buckets, config)
        else:
            self._planner = MixedPlanner(self._life, pages, buckets, self._policy)
        self._batch_rows = 0  # rows the running static batch began with
        self._struck: Sequence | None = None  # whoever ran out of memory alone, and how often
        self._strikes = 0

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._running or self._compiling)

    @property
    def waiting(self) -> int:
        """Completions that have no row, though they could be computed."""
        return len(self._waiting)

    def add(self, request: Request, guide: Guide | None = None) -> None:
        """Puts a request's completions at their place in the queue; each follows a copy of `guide`.

        If its constraint is still to be compiled, they are passed over until `compiled`.
        """
        self._life.add(request, guide)

    def compiling(self, request: Request) -> bool:
        """Whether completions of a request still wait for `compiled`. Any thread; what it says may be over."""
        return bool(self._life.waiting_for_guide(request))

    def compiled(self, request: Request, guide: Guide | PacelineError, now: float) -> list[Output]:
        """What became of a request's constraint. Its completions may have ended meanwhile."""
        if isinstance(guide, PacelineError):
            waiting = self._life.waiting_for_guide(request)
            return [self._life.end(s, FinishReason.ERROR, now, guide) for s in waiting]
        self._life.follow(request, guide)
        return []

    def cancel(
        self,
        request_id: str,
        reason: FinishReason,
        now: float,
        index: int | None = None,
    ) -> list[Output]:
        """Ends a request's completions (or one of them); their pages are free at once."""
        found = self._life.find(request_id)
        return [self._life.end(s, reason, now) for s in found if index in (None, s.index)]

    def cancel_all(
        self, reason: FinishReason, now: float, error: PacelineError | None = None
    ) -> list[Output]:
        """Ends everything."""
        return [self._life.end(s, reason, now, error) for s in list(self._life)]

    def expire(self, now: float) -> list[Output]:
        """Ends what is past its deadline or its time limit, waiting or running."""
        if now < self._life.soonest:
            return []
        outputs = []
        for sequence in [s for s in self._life if now >= s.expires]:
            at_deadline = sequence.request.deadline == sequence.expires  # the earlier limit wins
            error = DeadlineExceeded("deadline exceeded") if at_deadline else None
            outputs.append(self._life.end(sequence, FinishReason.TIME_LIMIT, now, error))
        self._life.soonest = min((s.expires for s in self._life), default=float("inf"))
        return outputs

    def asks_again_at(self) -> float | None:
        """When to plan again although nothing new arrived; None: only when something does.

        It may be too early, when the soonest deadline was of a sequence that ended; `expire` mends that.
        """
        if not (self._waiting or self._compiling):
            return None
        soonest = self._life.soonest
        if self._policy.lets_wait:
            due = self._policy.asks_again_at(self._waiting.oldest_arrival)
            soonest = soonest if due is None else min(soonest, due)
        return None if soonest == float("inf") else soonest

    def plan(self, now: float) -> Step | None:
        """The next step, or None when nothing can be computed before a step in flight is read back."""
        if not self._running:
            self._batch_rows = 0
        if self._waiting:
            self._admit(now)
        step = self._planner.plan(self.bounds.tokens, self._batch_rows, now)
        if step is not None:
            self._life.take_off(step)
        return step

    def apply(self, step: Step, sampled: Sampled, now: float) -> list[Output]:
        """Takes in a step's tokens, aligned with `step.sampling_rows`, and ends what is complete."""
        if len(sampled.token_ids) != len(step.sampling_rows):
            raise ValueError("a step's tokens do not match its rows")
        dropped = self._life.land(step).dropped
        self.bounds.count_good_step()
        logprobs = sampled.logprobs
        for row, found_here in sampled.prompt_logprobs:
            if row.sequence not in dropped:
                row.sequence.prompt_logprobs[row.start + 1 :] = found_here
        outputs: list[Output] = []
        made = 0
        # What a step costs the host is this loop and the planner's.
        for i, (row, token) in enumerate(zip(step.sampling_rows, sampled.token_ids, strict=True)):
            sequence = row.sequence
            if dropped and sequence in dropped:
                continue  # it left while the step was in flight
            sequence.pending -= 1
            if token < 0:
                outputs.append(self._end_without_token(sequence, now))
                continue
            tokens = sequence.tokens
            tokens.append(token)
            if sequence.guide is not None:
                sequence.guide.accept(token)
            sequence.last_token = now
            scored: tuple[TokenLogprobs | None, ...] = ()
            if sequence.first_token is None:
                sequence.first_token = now
                self._counters.cached_tokens += sequence.cached_tokens
                scored = tuple(sequence.prompt_logprobs)
                sequence.prompt_logprobs = []
            made += 1
            finish = None
            if token in sequence.ends or len(tokens) >= sequence.limit:
                finish = self._life.complete(sequence, now)
            more: tuple[TokenLogprobs, ...] = ()
            if logprobs is not None and (found := logprobs[i]) is not None:
                more = (found,)
            output = Output(sequence.request_id, sequence.index, (token,), more, finish, scored)
            outputs.append(output)
            if sequence is self._struck:
                self._struck = None
        self._counters.output_tokens += made
        return outputs

    def fail(self, step: Step, now: float, error: PacelineError) -> list[Output]:
        """Ends the sequences of a step that went wrong; what it wrote to pages is not trusted."""
        rows = self._life.land(step).live_rows
        outputs = [self._life.end(row.sequence, FinishReason.ERROR, now, error) for row in rows]
        self._start_over()
        return outputs

    def out_of_memory(self, step: Step, now: float) -> list[Output]:
        """Sends the rows of a step that did not fit back to the queue and shrinks the bounds.

        Ends a sequence that ran out of memory three times, alone and in the smallest steps there are.
        """
        rows = self._life.land(step).live_rows
        self._start_over()
        # Without live rows it was planned before the step ahead of it failed, or everybody left.
        if not rows or self.bounds.shrink():
            return []
        sequence = rows[0].sequence
        self._strikes = self._strikes + 1 if sequence is self._struck else 1
        self._struck = sequence
        if self._strikes < _MOST_TRIES:
            return []
        return [self._life.end(sequence, FinishReason.ERROR, now, OutOfMemory())]

    def load(self, now: float) -> Load:
        """Gauges and counters; refusals and busy time are the engine's to add."""
        c = self._counters
        return Load(
            time_s=now,
            running=len(self._running),
            waiting=len(self._waiting) + len(self._compiling),
            waiting_tokens=self._waiting.tokens + self._compiling.tokens,
            pages_used=self._pages.num_used,
            pages_total=self._pages.capacity,
            step_rows=c.step_rows if self._running else 0,
            step_padded_rows=c.step_padded_rows if self._running else 0,
            steps=c.steps,
            real_tokens=c.real_tokens,
            padded_tokens=c.padded_tokens,
            prompt_tokens=c.prompt_tokens,
            output_tokens=c.output_tokens,
            cached_tokens=c.cached_tokens,
            preemptions=c.preemptions,
            requests_finished=c.requests_finished,
            row_steps=c.row_steps,
        )

    @property
    def shapes(self) -> dict[int, int]:
        """Steps by the length of their line of tokens, padding included. It goes on changing."""
        return self._counters.shapes

    def _admit(self, now: float) -> None:
        oldest = self._waiting.oldest_arrival if self._policy.lets_wait else now
        queue = Queue(len(self._running), len(self._waiting), oldest, now)
        room = self.bounds.rows - len(self._running)
        for _ in range(min(room, self._policy.joiners(queue))):
            sequence = self._waiting.head
            if not self._give_pages(sequence):
                break
            self._life.join(sequence, prefilling=self._planner.begins_with_prefill(sequence))
        if self._policy.keeps_rows and not self._batch_rows:
            self._batch_rows = len(self._running)

    def _give_pages(self, sequence: Sequence) -> bool:
        """Gives a joining sequence the pages it starts with: shared ones it can reuse, and new ones.

        A lockstep batch cannot take turns, so its members get all they may ever need. Elsewhere one
        page for each running sequence is left over, or the newcomer would soon be preempted.
        """
        tokens, spare = len(sequence.tokens), len(self._running)
        if self._policy.lockstep:
            tokens, spare = sequence.limit, 0
        self._residency.reuse(sequence)
        if self._residency.lacks(sequence, tokens, spare):
            self._residency.release(sequence)
            return False
        self._residency.extend(sequence, tokens)
        return True

    def _end_without_token(self, sequence: Sequence, now: float) -> Output:
        error: PacelineError
        if sequence.guide is not None and (problem := sequence.guide.problem) is not None:
            error = InvalidRequest(Violation("generation.constraint", problem))
            return self._life.end(sequence, FinishReason.ERROR, now, error)
        # Its pages may be shared, and hold what nobody must read again.
        self._pages.forget_all()
        error = EngineFailure(f"non-finite-logits-{sequence.request.id}-{sequence.index}")
        return self._life.end(sequence, FinishReason.ERROR, now, error)

    def _start_over(self) -> None:
        """Sends back whoever runs: it may share pages that the failed step was to write."""
        self._pages.forget_all()
        for sequence in list(self._running):
            self._life.preempt(sequence)

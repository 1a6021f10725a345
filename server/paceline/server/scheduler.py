"""Plans steps: who joins, who computes what, who gives up its pages. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import count

from .config import EngineConfig
from .counters import Counters
from .errors import DeadlineExceeded, EngineFailure, PacelineError
from .pages import PagePool
from .policy import Queue, make_policy
from .rectangles import Buckets, decode_rectangles, prefill_rectangles
from .request import FinishReason, Load, Output, Request
from .residency import Residency
from .sequence import Sequence
from .step import Rectangle, Row, Sample, Step
from .waiting import WaitingLine, place


@dataclass(slots=True)
class _Plan:
    """The step being planned: tokens it may still compute, and its rows so far."""

    budget: int
    prefill: list[Row] = field(default_factory=list)
    decode: list[Row] = field(default_factory=list)


class Scheduler:
    """Owns every sequence and every page. Call order: `expire`, `plan`, run the step, `apply`.

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
        # Every running sequence gets at least one token a step.
        self._budget = max(config.max_step_tokens, config.max_batch_size)
        self._policy = make_policy(config)
        self._pages = pages
        self._residency = Residency(pages)
        self._buckets = buckets
        self._on_leave_queue = on_leave_queue
        self._waiting = WaitingLine()
        self._running: list[Sequence] = []  # in the order they joined
        self._batch_rows = 0  # rows the running static batch began with
        self._order = count()
        self._counters = Counters()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    def add(self, request: Request) -> None:
        """Puts a request's completions at their place in the queue."""
        for index in range(request.n):
            self._waiting.add(Sequence(request, index, next(self._order)))

    def cancel(
        self,
        request_id: str,
        reason: FinishReason,
        now: float,
        index: int | None = None,
    ) -> list[Output]:
        """Ends a request's completions (or one of them); their pages are free at once."""
        found = [s for s in self._all() if s.request.id == request_id]
        return [self._end(s, reason, now) for s in found if index in (None, s.index)]

    def cancel_all(
        self, reason: FinishReason, now: float, error: PacelineError | None = None
    ) -> list[Output]:
        """Ends everything."""
        return [self._end(s, reason, now, error) for s in self._all()]

    def fail(self, step: Step, now: float, error: PacelineError) -> list[Output]:
        """Ends the sequences of a step that went wrong; what it wrote to pages is not trusted."""
        self._pages.forget_all()
        return [self._end(row.sequence, FinishReason.ERROR, now, error) for row in step.rows]

    def expire(self, now: float) -> list[Output]:
        """Ends what is past its deadline or its time limit, waiting or running."""
        late = [s for s in self._all() if now >= s.expires]
        outputs = []
        for sequence in late:
            at_deadline = sequence.request.deadline == sequence.expires  # the earlier limit wins
            error = DeadlineExceeded("deadline exceeded") if at_deadline else None
            outputs.append(self._end(sequence, FinishReason.TIME_LIMIT, now, error))
        return outputs

    def asks_again_at(self) -> float | None:
        """When to plan again although nothing new arrived; None: only when something does."""
        if not self._waiting:
            return None
        soonest = min(s.expires for s in self._waiting)
        due = self._policy.asks_again_at(self._waiting.oldest_arrival)
        soonest = soonest if due is None else min(soonest, due)
        return None if soonest == float("inf") else soonest

    def plan(self, now: float) -> Step | None:
        """The next step, or None when nothing can be computed now."""
        if not self._running:
            self._batch_rows = 0
        self._admit(now)
        plan = _Plan(self._budget)
        decoding: list[Sequence] = []
        prefilling: list[Sequence] = []
        for sequence in sorted(self._running, key=place):
            (prefilling if sequence.prefilling else decoding).append(sequence)
        if self._policy.lockstep and prefilling:
            self._prefill(prefilling, plan, max(1, plan.budget // len(prefilling)))
        else:
            self._decode(decoding, plan)
            self._prefill(prefilling, plan, plan.budget)
        return self._pack(plan, now)

    def apply(self, step: Step, samples: Iterable[Sample], now: float) -> list[Output]:
        """Takes in a step's tokens, aligned with `step.sampling_rows`, and ends what is complete."""
        for row in step.rows:
            row.sequence.num_computed = row.end
            if row.start < row.sequence.num_prompt:
                real = min(row.end, row.sequence.num_prompt) - row.start
                self._counters.prompt_tokens += real
        return [
            self._take(row.sequence, sample, now)
            for row, sample in zip(step.sampling_rows, samples, strict=True)
        ]

    def load(self, now: float) -> Load:
        """Gauges and counters; refusals and busy time are the engine's to add."""
        c = self._counters
        return Load(
            time_s=now,
            running=len(self._running),
            waiting=len(self._waiting),
            waiting_tokens=self._waiting.tokens,
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

    def _admit(self, now: float) -> None:
        if not self._waiting:
            return
        oldest = self._waiting.oldest_arrival
        queue = Queue(len(self._running), len(self._waiting), oldest, now)
        for _ in range(self._policy.joiners(queue)):
            sequence = self._waiting.head
            if not self._give_pages(sequence):
                break
            self._waiting.remove(sequence)
            self._running.append(sequence)
            self._dequeue(sequence)
        if self._policy.keeps_rows and not self._batch_rows:
            self._batch_rows = len(self._running)

    def _give_pages(self, sequence: Sequence) -> bool:
        """Gives a joining sequence the pages it starts with: shared ones it can reuse, and new ones.

        A lockstep batch cannot take turns, so its members get all they may ever need. Elsewhere one
        page for each running sequence is left over, or the newcomer would soon be preempted.
        """
        tokens, spare = len(sequence.tokens), len(self._running)
        if self._policy.lockstep:
            output = sequence.request.stopping.max_tokens
            tokens, spare = min(sequence.num_prompt + output, self.max_context), 0
        self._residency.reuse(sequence)
        if self._residency.lacks(sequence, tokens, spare):
            self._residency.release(sequence)
            return False
        self._residency.extend(sequence, tokens)
        return True

    def _decode(self, sequences: Seq[Sequence], plan: _Plan) -> None:
        """Adds a row of one token for each; the budget always suffices for these."""
        for sequence in sequences:
            # Who lost its pages to an earlier row of this step is not running any more.
            if sequence.pages:
                self._add_row(sequence, plan, plan.decode, 1)

    def _prefill(self, sequences: Seq[Sequence], plan: _Plan, width: int) -> None:
        """Adds rows of at most `width` prompt tokens while the budget lasts."""
        for sequence in sequences:
            if plan.budget <= 0:
                return
            if sequence.pages:
                self._residency.reuse(sequence)
                self._add_row(sequence, plan, plan.prefill, min(width, plan.budget))

    def _add_row(self, sequence: Sequence, plan: _Plan, rows: list[Row], width: int) -> None:
        start, known = sequence.num_computed, len(sequence.tokens)
        end = min(known, start + width)
        if not self._grow(sequence, end):
            return
        self._residency.register(sequence, end)
        pages = self._residency.first_pages(sequence, end)
        tokens = tuple(sequence.tokens[start:end])
        rows.append(Row(sequence, start, end, tokens, pages, end == known))
        plan.budget -= end - start

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Makes room for `tokens` tokens; if there is none, whoever is last in line gives up its own."""
        while self._residency.lacks(sequence, tokens):
            # Only decoding rows grow, and they are planned in the order of their place: whoever comes
            # last of all has no row in this step yet.
            victim = max(self._running, key=place)
            self._preempt(victim)
            if victim is sequence:
                return False
        self._residency.extend(sequence, tokens)
        return True

    def _pack(self, plan: _Plan, now: float) -> Step | None:
        rectangles: list[Rectangle] = []
        if plan.decode:
            rectangles += decode_rectangles(
                plan.decode, self._policy, self._batch_rows, self._buckets
            )
        if plan.prefill:
            rectangles += prefill_rectangles(
                plan.prefill, self._policy, self._batch_rows, self._buckets
            )
        if not rectangles:
            return None
        step = Step(tuple(rectangles))
        self._counters.saw(step)
        for row in step.rows:
            row.sequence.saw_step(len(step.rows), now)
        return step

    def _take(self, sequence: Sequence, sample: Sample, now: float) -> Output:
        if sample.token < 0:
            # Its pages may be shared, and hold what nobody must read again.
            self._pages.forget_all()
            error = EngineFailure(f"non-finite-logits-{sequence.request.id}-{sequence.index}")
            return self._end(sequence, FinishReason.ERROR, now, error)
        if sequence.first_token is None:
            self._counters.cached_tokens += sequence.cached_tokens
        sequence.append(sample.token, now)
        self._counters.output_tokens += 1
        reason = sequence.end_reason(self.max_context)
        finish = None if reason is None else sequence.finish(reason, now)
        if finish is not None:
            self._leave(sequence)
        logprobs = () if sample.logprobs is None else (sample.logprobs,)
        request = sequence.request
        return Output(request.id, sequence.index, (sample.token,), logprobs, finish)

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the queue, at its old place; its tokens stay and are computed again later."""
        self._running.remove(sequence)
        self._residency.release(sequence)
        sequence.preemptions += 1
        self._counters.preemptions += 1
        self._waiting.add(sequence)

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        now: float,
        error: PacelineError | None = None,
    ) -> Output:
        output = sequence.ended(reason, now, error)
        self._leave(sequence)
        return output

    def _leave(self, sequence: Sequence) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
            self._dequeue(sequence)
        self._residency.release(sequence)
        self._counters.requests_finished += 1

    def _dequeue(self, sequence: Sequence) -> None:
        if sequence.queued:
            sequence.queued = False
            self._on_leave_queue(sequence)

    def _all(self) -> list[Sequence]:
        return [*self._running, *self._waiting]

"""What the next step computes: rows for the running sequences, laid out in rectangles. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from .lifecycle import Lifecycle
from .pages import PagePool
from .policy import Policy
from .rectangles import Buckets, decode_rectangles, prefill_rectangles
from .sequence import Sequence
from .step import Rectangle, Row, Step

# Prompt tokens of a step whose log-probabilities are reported: each takes logits of the whole vocabulary.
_MOST_SCORED = 128


class Planner(ABC):
    """Plans for whoever runs, and takes pages from whoever comes last when they run out."""

    def __init__(self, life: Lifecycle, pages: PagePool, buckets: Buckets) -> None:
        self._life = life
        self._running = life.running
        self._pages = pages
        self._residency = life.residency
        self._buckets = buckets

    @abstractmethod
    def begins_with_prefill(self, sequence: Sequence) -> bool:
        """Whether a joining sequence has prompt tokens to compute before it decodes."""

    @abstractmethod
    def plan(self, budget: int, batch_rows: int, now: float) -> Step | None:
        """A step of about `budget` tokens, or None when nothing can be computed now.

        `batch_rows` is how many rows the running static batch began with.
        """

    def _begin_page(self, sequence: Sequence, start: int) -> bool:
        """Gives a sequence the page that position `start` begins. False if it lost all it had instead."""
        # A page is full when the next begins: only then the host knows its last token for certain.
        self._residency.register(sequence, start)
        pages = sequence.pages
        if start < len(pages) * self._pages.page_size:
            return True
        while not self._pages.num_idle:
            # Only decoding rows grow, and they are planned in the order of their place: whoever comes
            # last of all has no row in this step yet.
            victim = self._running.last
            self._life.preempt(victim)
            if victim is sequence:
                return False
        pages += self._pages.take(1)
        return True

    def _prefill_row(self, sequence: Sequence, end: int, now: float, *, samples: bool) -> Row:
        """Prompt tokens up to position `end - 1`. All pages are there since it joined."""
        start = sequence.num_computed
        self._residency.register(sequence, end)
        sequence.num_computed = end
        if samples:
            sequence.pending = 1
        if sequence.first_scheduled is None:
            sequence.first_scheduled = now
        prompt = min(end, sequence.num_prompt) - start
        self._life.counters.prompt_tokens += max(0, prompt)
        return Row(sequence, start, end, samples, self._pages.pages_for(end))

    def _step(self, rectangles: list[Rectangle], scores_prompts: bool = False) -> Step | None:
        if not rectangles:
            return None
        line = sum(rectangle.area for rectangle in rectangles)
        return Step(tuple(rectangles), self._buckets.line_for(line), scores_prompts)


class MixedPlanner(Planner):
    """Decoding rows and prompt chunks side by side, as many as the budget allows."""

    def __init__(self, life: Lifecycle, pages: PagePool, buckets: Buckets, policy: Policy) -> None:
        super().__init__(life, pages, buckets)
        self._policy = policy

    def begins_with_prefill(self, sequence: Sequence) -> bool:
        return sequence.prefilling

    def plan(self, budget: int, batch_rows: int, now: float) -> Step | None:
        waiting_for = len(self._running.prefilling) if self._policy.lockstep else 0
        rectangles: list[Rectangle] = []
        width = budget
        if waiting_for:
            height = max(waiting_for, batch_rows if self._policy.keeps_rows else 0)
            width = max(1, budget // height)
        elif decode := self._decode():
            rectangles += decode_rectangles(decode, self._policy, batch_rows, self._buckets)
            budget -= len(decode)
        if prefill := self._prefill(budget, width, now):
            rectangles += prefill_rectangles(prefill, self._policy, batch_rows, self._buckets)
        return self._step(rectangles, scores_prompts(prefill))

    def _decode(self) -> list[Row]:
        """A row of one token for each; the budget always suffices for these.

        This loop is what a step costs the host, so it calls nothing and makes nothing but the rows.
        """
        rows: list[Row] = []
        page_size = self._pages.page_size
        new = tuple.__new__  # half the time of `Row(...)`
        # Preemption shortens the list from its end, past the row at hand.
        for sequence in self._running.decoding:
            start = sequence.num_computed
            end = start + 1
            if end >= sequence.limit:
                continue  # what is in flight is its last token
            if sequence.pending and sequence.guide is not None:
                continue  # its mask needs the token in flight
            if start % page_size == 0 and not self._begin_page(sequence, start):
                break  # it was the last of all
            sequence.num_computed = end
            sequence.pending += 1
            rows.append(new(Row, (sequence, start, end, True, start // page_size + 1)))
        return rows

    def _prefill(self, budget: int, width: int, now: float) -> list[Row]:
        """Rows of at most `width` prompt tokens while the budget lasts."""
        rows = []
        scored = _MOST_SCORED
        for sequence in self._running.prefilling.copy():
            if budget <= 0:
                break
            self._residency.reuse(sequence)
            start, known = sequence.num_computed, len(sequence.tokens)
            end = min(known, start + min(width, budget))
            if sequence.prompt_logprobs:
                end = min(end, start + scored)
                scored -= end - start
                if end == start:
                    continue
            rows.append(self._prefill_row(sequence, end, now, samples=end == known))
            budget -= end - start
            if end == known:
                self._running.begin_to_decode(sequence)
        return rows


def scores_prompts(rows: Iterable[Row]) -> bool:
    """Whether log-probabilities of prompt tokens are asked for."""
    return any(row.sequence.prompt_logprobs for row in rows)

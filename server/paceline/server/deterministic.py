"""Planning in which a request's steps have the same kinds and shapes whoever its neighbours are. Pure.

A kernel may add up in another order for another shape, and so round differently. Here every step is
either one prompt chunk in a rectangle of one row and a fixed width, or decoding rows in a rectangle of
a fixed height; chunks begin at multiples of their width. What was computed as a chunk is computed again
as a chunk, and what was decoded is decoded again, one token at a time.
"""

from __future__ import annotations

from .config import EngineConfig
from .lifecycle import Lifecycle
from .pages import PagePool
from .planner import Planner, scores_prompts
from .rectangles import Buckets
from .sequence import Sequence
from .step import Rectangle, Row, Step


class DeterministicPlanner(Planner):
    """Prompt chunks and decoding take turns where there is both. Batching modes differ in who may join."""

    def __init__(
        self, life: Lifecycle, pages: PagePool, buckets: Buckets, config: EngineConfig
    ) -> None:
        super().__init__(life, pages, buckets)
        self._height = config.max_batch_size
        self._chunk = config.prefill_chunk
        self._decodes_next = False

    def begins_with_prefill(self, sequence: Sequence) -> bool:
        return sequence.num_computed < sequence.num_prompt

    def plan(self, budget: int, batch_rows: int, now: float) -> Step | None:
        rectangle = self._decode() if self._decodes_next else None
        self._decodes_next = False
        if rectangle is None and (rectangle := self._prefill(now)):
            self._decodes_next = True
        if rectangle is None:
            rectangle = self._decode()
        return (
            None if rectangle is None else self._step([rectangle], scores_prompts(rectangle.rows))
        )

    def _decode(self) -> Rectangle | None:
        rows: list[Row] = []
        page_size = self._pages.page_size
        for sequence in self._running.decoding:
            start = sequence.num_computed
            end = start + 1
            if end >= sequence.limit:
                continue  # what is in flight is its last token
            if sequence.pending and sequence.guide is not None:
                continue  # its mask needs the token in flight
            if start % page_size == 0 and not self._begin_page(sequence, start):
                break  # it was the last of all
            # After a preemption the next token is known: nothing is chosen until the newest is reached.
            samples = end == len(sequence.tokens) + sequence.pending
            sequence.num_computed = end
            sequence.pending += samples
            rows.append(Row(sequence, start, end, samples, start // page_size + 1))
        return Rectangle(tuple(rows), self._height, 1) if rows else None

    def _prefill(self, now: float) -> Rectangle | None:
        if not self._running.prefilling:
            return None
        sequence = self._running.prefilling[0]
        self._residency.reuse(sequence)
        end = min(sequence.num_computed + self._chunk, sequence.num_prompt)
        complete = end == sequence.num_prompt
        row = self._prefill_row(sequence, end, now, samples=complete and not sequence.num_output)
        if complete:
            self._running.begin_to_decode(sequence)
        return Rectangle((row,), 1, self._chunk)

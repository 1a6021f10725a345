"""A sequence's way through the scheduler: it waits, runs, may be sent back, and leaves once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING

from .counters import Counters, StepHistory
from .errors import PacelineError
from .request import Finish, FinishReason, Output, Request
from .residency import Residency
from .running import Running
from .sequence import Sequence
from .step import Row, Step
from .waiting import WaitingLine

if TYPE_CHECKING:
    from .guidance import Guide

# Of the process: a runner may outlive a scheduler, and must not take one's guest for another's.
_STAYS = count()


@dataclass(eq=False, slots=True)
class Flight:
    """A planned step until it is read back.

    `dropped` are sequences that left or were sent back meanwhile: what the step chooses for them is
    not theirs any more, though they may have come back and have rows in a later step.
    """

    step: Step
    steps: int  # planned since start, this one included
    row_steps: int
    dropped: set[Sequence] = field(default_factory=set)

    @property
    def live_rows(self) -> list[Row]:
        return [row for row in self.step.rows if row.sequence not in self.dropped]


class Lifecycle:
    """Holds every sequence that has not ended, and lets each out exactly once.

    A sequence may leave, or lose its pages, while a launched step still computes a row of it. Its slot
    and its pages can go to others at once: the device executes steps in order, so whatever the old row
    writes is written before a later step writes there.

    Args:
        residency: hands out and takes back pages.
        max_context: tokens a sequence may grow to.
        max_rows: slots.
        on_leave_queue: told once for each sequence, when it first joins or ends before that.
        ageing_s: so much earlier an arrival makes up for one step of priority.
    """

    def __init__(
        self,
        residency: Residency,
        max_context: int,
        max_rows: int,
        on_leave_queue: Callable[[Sequence], None],
        *,
        ageing_s: float = 1.0,
    ) -> None:
        self.waiting = WaitingLine()
        self.compiling = WaitingLine()  # for their constraints; nobody waits behind them
        self.running = Running(max_rows)
        self.residency = residency
        self.counters = Counters()
        self.soonest = float("inf")  # nobody's time is up before that
        self._max_context = max_context
        self._on_leave_queue = on_leave_queue
        self._ageing_s = ageing_s
        self._flights: deque[Flight] = deque()
        self._history = StepHistory()
        self._by_id: dict[str, list[Sequence]] = {}
        self._order = count()

    def __iter__(self) -> Iterator[Sequence]:
        return chain(self.running, self.waiting, self.compiling)

    def find(self, request_id: str) -> list[Sequence]:
        """The completions of a request that have not ended."""
        return list(self._by_id.get(request_id, ()))

    def add(self, request: Request, guide: Guide | None = None) -> None:
        """Puts a request's completions at their place in the queue; each follows a copy of `guide`.

        Where that is missing, they take their place when `follow` brings it.
        """
        longest = len(request.prompt_ids) + request.stopping.max_tokens
        # All age alike, so who goes before whom never changes: nobody is overtaken without end, for
        # whoever comes late enough comes after, however urgent.
        due = request.arrival + request.priority * self._ageing_s
        for index in range(request.n):
            own = guide.copy() if guide is not None else None
            sequence = Sequence(request, index, next(self._order), guide=own)
            sequence.limit = min(longest, self._max_context)
            sequence.place = (due, sequence.order)
            self.soonest = min(self.soonest, sequence.expires)
            self._by_id.setdefault(request.id, []).append(sequence)
            self._line_of(sequence).add(sequence)

    def follow(self, request: Request, guide: Guide) -> None:
        """The completions of a request that wait for its guide, as many as are left, wait for a row now."""
        for sequence in self.waiting_for_guide(request):
            self.compiling.remove(sequence)
            sequence.follow(guide.copy())
            self.waiting.add(sequence)

    def waiting_for_guide(self, request: Request) -> list[Sequence]:
        """Its completions in `compiling`. The id may be a later request's by now."""
        return [s for s in self.find(request.id) if s.request is request and s.compiling]

    def join(self, sequence: Sequence, *, prefilling: bool) -> None:
        """From the queue to a slot; it has its pages already."""
        self.waiting.remove(sequence)
        self.running.join(sequence, prefilling=prefilling)
        sequence.stay = next(_STAYS)
        sequence.joined_steps = self.counters.steps
        sequence.joined_rows = self.counters.row_steps
        self._dequeue(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Back to the queue, at its old place; the tokens that are known are computed again later.

        One that a launched step is choosing is dropped and chosen again: noise depends on seed and
        position alone, so it will be the same.
        """
        self._stop_running(sequence)
        self.residency.release(sequence)
        sequence.preemptions += 1
        self.counters.preemptions += 1
        self.waiting.add(sequence)

    def complete(self, sequence: Sequence, now: float) -> Finish:
        """Ends a sequence by its newest token."""
        reason = sequence.end_reason(self._max_context)
        assert reason is not None
        self.residency.register(sequence, min(sequence.num_computed, len(sequence.tokens)))
        self._stop_running(sequence)
        finish = sequence.finish(reason, now)
        self._leave(sequence)
        return finish

    def end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        now: float,
        error: PacelineError | None = None,
    ) -> Output:
        """Ends a sequence for any other reason, waiting or running."""
        if sequence.slot >= 0:
            self._stop_running(sequence)
        else:
            self._line_of(sequence).remove(sequence)
            self._dequeue(sequence)
        output = sequence.ended(reason, now, error)
        self._leave(sequence)
        return output

    def take_off(self, step: Step) -> None:
        """A step was planned: from now on it is in flight."""
        self.counters.saw(step)
        self._flights.append(Flight(step, self.counters.steps, self.counters.row_steps))

    def land(self, step: Step) -> Flight:
        """A step was read back, or will never be. Steps come down in the order they took off."""
        flight = self._flights.popleft()
        assert flight.step is step
        self._history.read_back(flight.steps, flight.row_steps)
        return flight

    def _stop_running(self, sequence: Sequence) -> None:
        self.running.leave(sequence)
        for flight in self._flights:
            flight.dropped.add(sequence)
        sequence.pending = 0
        history = self._history
        steps = history.steps - sequence.joined_steps
        if steps > 0:  # else the first step since it joined was not read back
            sequence.steps += steps
            sequence.rows_seen += history.row_steps - sequence.joined_rows
            most = history.most_rows_after(sequence.joined_steps)
            sequence.rows_max = max(sequence.rows_max, most)

    def _line_of(self, sequence: Sequence) -> WaitingLine:
        return self.compiling if sequence.compiling else self.waiting

    def _leave(self, sequence: Sequence) -> None:
        self.residency.release(sequence)
        mates = self._by_id[sequence.request.id]
        mates.remove(sequence)
        if not mates:
            del self._by_id[sequence.request.id]
        self.counters.requests_finished += 1

    def _dequeue(self, sequence: Sequence) -> None:
        if sequence.queued:
            sequence.queued = False
            self._on_leave_queue(sequence)

"""One streamed generation: sent, read message by message with exact stamps, ended or cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from paceline.loadgen.prompt import Prompt
from paceline.loadgen.timing import DROPPED, Record
from paceline.loadgen.wire import Exchange, Said, Wire, WireError, spread

Clock = Callable[[], float]


@dataclass(eq=False, slots=True)
class Call:
    """One generation in flight. `run` blocks until its status; `cut` ends it from another greenlet."""

    prompt: Prompt
    index: int  # place of its level in the sweep
    level: int
    phase: str
    clock: Clock
    status: str = ""
    details: str = ""
    was_cut: bool = False
    cancelled_by_plan: bool = False
    t_int: float | None = None
    rate: float | None = None
    t_send: float = 0.0
    t_end: float = 0.0
    protocol: str = "grpc"
    _exchange: Exchange | None = None
    _moments: list[float] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _count: int = 0
    _gap: bool = False
    _answer: list[str] = field(default_factory=list)

    def run(self, wire: Wire, timeout_s: float) -> None:
        """Send and read to the end. A killed greenlet cancels the call and leaves it marked as cut."""
        self.protocol = wire.protocol
        deadline_s = self.prompt.deadline_s
        timeout_s = timeout_s if deadline_s is None else min(timeout_s, deadline_s)
        self.t_send = self.clock()
        try:
            self._exchange = wire.exchange(self.prompt)
            self.t_send = self.clock()
            stayed = self._exchange.run(timeout_s, self._take)
            self.cancelled_by_plan = not stayed and not self.was_cut
            self.status = "OK" if stayed else "CANCELLED"
        except WireError as error:
            self.status, self.details = error.status, error.details
        finally:
            self.t_end = self.clock()
            if not self.status:
                self.cut()
                self.status = "CANCELLED"

    def drop(self) -> None:
        """Give the call up in place of sending it. It stands where it was due, however late it is given up."""
        self.t_send = self.t_end = self.clock() if self.t_int is None else self.t_int
        self.status = DROPPED

    def cut(self) -> None:
        """End the call because the run ends: no error of the server's."""
        self.was_cut = True
        if self._exchange is not None:
            self._exchange.cancel()

    def _take(self, count: int, offset: int, text: str) -> bool:
        """A message with tokens came. The hot path: what can wait is left to `record`."""
        self._moments.append(self.clock())
        self._tokens.append(count)
        if offset != self._count:
            self._gap = True
        self._count += count
        if text:
            self._answer.append(text)
        after = self.prompt.cancel_after
        return after is None or self._count < after

    @property
    def cut_off(self) -> bool:
        """Ended by `cut`, not by itself: one that came to its end just before is an ordinary one."""
        return self.was_cut and self.status != "OK"

    @property
    def failed(self) -> bool:
        """The server's fault: a status other than OK that neither `cut`, a planned cancel nor a deadline caused."""
        planned = self.was_cut or self.cancelled_by_plan or self.missed_deadline
        return self.status not in ("OK", DROPPED) and not planned

    @property
    def missed_deadline(self) -> bool:
        """The request's own deadline passed."""
        return self.status == "DEADLINE_EXCEEDED" and self.prompt.deadline_s is not None

    @property
    def ended(self) -> bool:
        """It came to the end that was planned for it, good or late."""
        return self.status == "OK" or self.cancelled_by_plan or self.missed_deadline

    @property
    def answer(self) -> str:
        """The text that came; kept only where a conversation goes on with it."""
        return "".join(self._answer)

    @property
    def tokens(self) -> int:
        """Output tokens that arrived."""
        return self._count

    def record(self, *, mode: str, worker: int) -> Record:
        """What happened, once `run` is over."""
        said = self._exchange.said if self._exchange is not None else Said()
        tokens, told = self._tokens, said.output_tokens
        if said.shared_out and told is not None:
            tokens = spread(tokens, told)
        counted = sum(tokens)
        return Record(
            id=f"{mode}-{self.index}-{self.prompt.id}",
            mode=mode,
            level=self.level,
            phase=self.phase,
            worker=worker,
            t_send=self.t_send,
            t_end=self.t_end,
            status=self.status,
            cut=self.cut_off,
            stamps_us=self._stamps_us(),
            tokens=tokens,
            prompt_tokens=said.prompt_tokens,
            requested_tokens=self.prompt.max_tokens,
            output_tokens=counted if told is None and said.shared_out else told or 0,
            finish=said.finish,
            cached_tokens=said.cached_tokens,
            server=said.server,
            gap=self._gap or (self.status == "OK" and told not in (None, counted)),
            t_int=self.t_int,
            rate=self.rate,
            kind=self.prompt.label,
            priority=self.prompt.priority,
            deadline_s=self.prompt.deadline_s,
            cancelled_by_plan=self.cancelled_by_plan,
            trace_id=said.trace_id,
        )

    def _stamps_us(self) -> list[int]:
        # Differences of rounded times, not rounded differences: errors do not add up over a long stream.
        times = [0, *(round((moment - self.t_send) * 1e6) for moment in self._moments)]
        return [later - before for before, later in pairwise(times)]

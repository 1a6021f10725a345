"""Sends one process's share of an open-loop level: each arrival at its own time, whatever becomes of the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from itertools import takewhile

import gevent

from paceline.loadgen.call import Call
from paceline.loadgen.schedule import make_schedule
from paceline.loadgen.session import Session
from paceline.loadgen.stage import Stage


class ArrivalStream:
    """Owns the senders of one process. Locust's users play no part: a greenlet of its own sends each arrival."""

    def __init__(self, session: Session, report: Callable[[str, Call], None]) -> None:
        self._session = session
        self._report = report
        self._index: int | None = None  # of the level that sends
        self._rest: Generator[Call, None, None] | None = None  # its arrivals that nobody awaits yet
        self._waiting: set[Call] = set()  # whoever sleeps until they are due

    def enter(self, stage: Stage) -> None:
        """Begin the level of the stage, unless it runs already; end sending where the stage is closed."""
        if stage.rate is None or not stage.open:
            self.stop()
        elif stage.index != self._index:
            self.stop()
            self._index, self._rest = stage.index, self._arrivals(stage)
            gevent.spawn(self._run, self._rest, stage)

    def stop(self) -> None:
        """Send nothing more; what is in flight goes on. What is due by now and still here is late, and dropped."""
        now_s = self._session.now()
        late = [call for call in self._waiting if _due_s(call) <= now_s]
        self._waiting.clear()
        if self._rest is not None:
            late += takewhile(lambda call: _due_s(call) <= now_s, self._rest)
            self._rest.close()
        self._index = self._rest = None
        for call in late:
            self._session.drop(call)

    def _arrivals(self, stage: Stage) -> Generator[Call, None, None]:
        options = self._session.options
        given = None if None in options.open_rates else stage.rate
        schedule = make_schedule(options.arrivals, given, stage.seconds, options.seed)
        # The wall clock is what processes share; from here on only the steady one counts.
        start_s = self._session.now() + stage.start_wall_s - time.time()
        for number, offset in schedule.share(stage.slot, stage.slots):
            yield self._session.arrival(stage, number, start_s + offset)

    def _run(self, arrivals: Generator[Call, None, None], stage: Stage) -> None:
        for call in arrivals:
            if self._is_due(call):
                self._offer(call, stage)

    def _is_due(self, call: Call) -> bool:
        """Sleep until its time; whether its level still sends then."""
        self._waiting.add(call)
        gevent.sleep(max(0.0, _due_s(call) - self._session.now()))
        due = call in self._waiting
        self._waiting.discard(call)
        return due

    def _offer(self, call: Call, stage: Stage) -> None:
        if self._session.outstanding >= self._cap(stage):
            self._session.drop(call)
        else:
            gevent.spawn(self._converse, call, stage)

    def _cap(self, stage: Stage) -> int:
        """This process's part of the outstanding requests that all may have together; at least one."""
        return max(1, -(-self._session.options.max_outstanding // stage.slots))

    def _converse(self, call: Call, stage: Stage) -> None:
        """Send a call and, where its conversation goes on, offer the next turn once its reader has thought.

        A turn that would come after the end of its level is not due any more; one beyond the cap is dropped.
        """
        name = self._session.name
        self._session.arrive(call)
        self._report(name, call)
        turn = self._session.next_turn(call)
        if turn is not None and self._index == stage.index and self._is_due(turn):
            self._offer(turn, stage)


def _due_s(call: Call) -> float:
    assert call.t_int is not None, "an open loop's calls have a time"
    return call.t_int

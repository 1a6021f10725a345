"""Sends one process's share of an open-loop level: each arrival at its own time, whatever becomes of the others."""

from __future__ import annotations

import time
from collections.abc import Callable

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
        self._sender: gevent.Greenlet | None = None
        self._index: int | None = None

    def enter(self, stage: Stage) -> None:
        """Begin the level of the stage, unless it runs already; end sending where the stage is closed."""
        if stage.rate is None or not stage.open:
            self.stop()
        elif stage.index != self._index:
            self.stop()
            self._index = stage.index
            self._sender = gevent.spawn(self._run, stage)

    def stop(self) -> None:
        """Send nothing more; what is in flight goes on."""
        self._index = None
        if self._sender is not None:
            self._sender.kill()
            self._sender = None

    def _run(self, stage: Stage) -> None:
        options = self._session.options
        given = None if None in options.open_rates else stage.rate
        schedule = make_schedule(options.arrivals, given, stage.seconds, options.seed)
        # The wall clock is what processes share; from here on only the steady one counts.
        start_s = self._session.now() + stage.start_wall_s - time.time()
        for number, offset in schedule.share(stage.slot, stage.slots):
            gevent.sleep(max(0.0, start_s + offset - self._session.now()))
            call = self._session.arrival(number, start_s + offset)
            if self._session.outstanding >= self._cap(stage):
                self._session.drop(call)
            else:
                gevent.spawn(self._converse, call, stage)

    def _cap(self, stage: Stage) -> int:
        """This process's part of the outstanding requests that all may have together; at least one."""
        return max(1, -(-self._session.options.max_outstanding // stage.slots))

    def _converse(self, call: Call, stage: Stage) -> None:
        """Send an arrival and, where it begins a conversation, each later turn once its reader has thought.

        A turn that would come after the end of its level is not due any more; one beyond the cap is dropped.
        """
        session, name = self._session, self._session.name
        session.arrive(call)
        self._report(name, call)
        while (due := session.next_turn(call)) is not None:
            assert due.t_int is not None, "an open loop's calls have a time"
            gevent.sleep(max(0.0, due.t_int - session.now()))
            if not session.stage.open or session.stage.index != stage.index:
                return
            if session.outstanding >= self._cap(stage):
                session.drop(due)
                return
            call = due
            session.arrive(call)
            self._report(name, call)

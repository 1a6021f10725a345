"""Light requests at fixed times beside the load: where they wait, somebody long is in front of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

import gevent
from gevent.pool import Pool

from paceline.loadgen.call import Call
from paceline.loadgen.session import Session

logger = logging.getLogger(__name__)

GATE_S = 0.2
MOST_FLYING = 64  # more of them would be a load of their own


class ProbeStream:
    """Owns the probes of one process; of several processes the first one sends them all."""

    def __init__(self, session: Session, report: Callable[[Call], None]) -> None:
        self._session = session
        self._report = report
        self._flying = Pool(MOST_FLYING)
        self._sender: gevent.Greenlet | None = None

    def start(self, rate: float) -> None:
        """Send `rate` probes a second while a level is open, whatever becomes of the earlier ones. 0: none."""
        self.stop()
        if rate:
            self._sender = gevent.spawn(self._run, rate)

    def stop(self) -> None:
        """End the stream, and cut what is in flight."""
        if self._sender is not None:
            self._sender.kill()
        self._flying.kill()

    def _run(self, rate: float) -> None:
        while True:
            if not self._session.wait_until_open(GATE_S) or self._session.stage.slot:
                gevent.sleep(GATE_S)
            else:
                self._send_level(rate)

    def _send_level(self, rate: float) -> None:
        index, start_s, number, skipped = self._session.stage.index, perf_counter(), 0, 0
        while True:
            t_int = start_s + number / rate
            gevent.sleep(max(0.0, t_int - perf_counter()))
            stage = self._session.stage
            if not stage.open or stage.index != index:
                break
            if self._flying.full():
                skipped += 1
            else:
                self._flying.spawn(self._send, number, t_int)
            number += 1
        if skipped:
            logger.warning("%d probes were not sent: %d were in flight", skipped, MOST_FLYING)

    def _send(self, number: int, t_int: float) -> None:
        self._report(self._session.probe(number, t_int))

"""The Locust user: one reader who asks, reads the stream to its end, and asks again."""

from __future__ import annotations

from locust import User, constant, task
from locust import stats as locust_stats

import gc
import math
from typing import Any, ClassVar

import gevent
from grpc.experimental.gevent import init_gevent

from paceline.loadgen.call import Call
from paceline.loadgen.options import DEFAULT_TARGET
from paceline.loadgen.session import Failure, Session

GATE_S = 0.2  # how often a waiting user looks whether it is to stop
FAILURE_PAUSE_S = 0.25  # a refused or dead server must not be hammered in a loop
MIN_POOL_THREADS = 64
MAX_POOL_THREADS = 1024
POOL_MARGIN = 32
GC_ALLOCATIONS = 20_000


class PacelineUser(User):
    """Closed loop: always one generation in flight, as soon as the level is open."""

    host = DEFAULT_TARGET
    wait_time = constant(0)
    session: ClassVar[Session | None] = None  # of this process; set when Locust is ready
    _last: Call | None = None  # this reader's conversation goes on from it

    @task
    def generate(self) -> None:
        """One generation, one event in Locust's tables; one cut off by the end of the run has none."""
        session = self.session
        assert session is not None, "register() from paceline.loadgen.run was not called"
        if not session.wait_for_turn(GATE_S):
            return
        name = session.name
        self._last = call = session.generate(self._last)
        report_call(self.environment, name, call, self.context())
        if call.failed:
            gevent.sleep(FAILURE_PAUSE_S)


def report_call(environment: Any, name: str, call: Call, context: Any) -> None:
    """One event in the tables of Locust's environment; none for a call that the end of the run cut off."""
    if call.cut_off:
        return
    environment.events.request.fire(
        request_type=call.protocol,
        name=name,
        response_time=(call.t_end - call.t_send) * 1e3,
        response_length=call.tokens,
        exception=Failure(call.status) if call.failed else None,
        context=context,
    )


def prepare_process(peak_users: int) -> None:
    """Make gRPC and gevent work together; call it once in each process, after the fork, before any channel.

    gRPC waits for its completion queues in gevent's thread pool. Its ten threads would make fast
    streams wait behind slow ones, so there must be one for whatever may wait at the same time.
    """
    threads = min(max(MIN_POOL_THREADS, peak_users + POOL_MARGIN), MAX_POOL_THREADS)
    gevent.get_hub().threadpool.maxsize = threads
    init_gevent()
    _spare_the_collector()


def _spare_the_collector() -> None:
    """Garbage collections stop every stream: what was imported is never garbage, and the rest is looked at rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)


def three_digits(response_time_ms: float) -> float:
    """A bucket of Locust's histogram: three significant digits, where Locust itself keeps two."""
    if response_time_ms <= 0:
        return 0
    digits = 2 - math.floor(math.log10(response_time_ms))
    rounded = round(response_time_ms, digits)
    return rounded if digits > 0 else int(rounded)


def use_fine_buckets() -> None:
    """Make Locust's percentiles exact to three digits; needed in the master and in every worker."""
    locust_stats.bucket_response_time = three_digits  # type: ignore[assignment]  # keys may be floats

"""The engine's side of the sockets: which front end owns which request, and where its outputs go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import zmq

from ..engine import Engine
from ..errors import EngineFailure, InvalidRequest, PacelineError, Violation
from ..logs import fields
from ..request import Finish, FinishReason, Output
from . import sockets
from .flight_record import Passenger
from .link import Link
from .messages import (
    Abort,
    Aborted,
    Accepted,
    AskLoad,
    Busy,
    Cancel,
    Hello,
    LoadIs,
    Refused,
    Submit,
    ToFrontend,
    control,
    decode_to_engine,
    encode,
)
from .quarantine import Quarantine

logger = logging.getLogger(__name__)

_YEAR_S = 365 * 86400.0


class _Owned:
    """A request in flight: its front end, the slot of its first completion, and how many still run."""

    __slots__ = ("first", "held", "identity", "link", "submit", "suspect", "unfinished")

    def __init__(self, identity: bytes, link: Link, submit: Submit, suspect: bool) -> None:
        self.identity = identity
        self.link = link
        self.submit = submit
        self.first = submit.first
        self.unfinished = submit.request.n
        self.suspect = suspect
        self.held: asyncio.TimerHandle | None = None  # of a suspect that may not go in yet


class Exchange:
    """Takes what front ends ask for, on the loop's thread, and hands out outputs, on the engine's.

    Request ids are unique over all front ends: one stays taken until the engine has ended its completions.

    Args:
        generation: which engine of the server this is.
        quarantine: holds back what engines before it died of.
        cleared: told the fingerprint of a suspect that did no harm.
    """

    def __init__(
        self,
        folder: Path,
        generation: int,
        quarantine: Quarantine,
        cleared: Callable[[bytes], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._quarantine = quarantine
        self._cleared = cleared
        self._engine: Engine | None = None
        self._links: dict[bytes, Link] = {}
        # Added to by the loop's thread, emptied by the engine's.
        self._owned: dict[str, _Owned] = {}
        self._gone: set[bytes] = set()
        self._to_close: deque[Link] = deque()
        router = sockets.make(zmq.ROUTER)
        router.bind(f"ipc://{folder / control(generation)}")
        self._inlet = sockets.Inlet(router, self._take)

    def open(self, engine: Engine) -> None:
        """Requests go to this engine, whose `deliver` is ours. Before any front end is told of us."""
        self._engine = engine

    def deliver(self, outputs: list[Output]) -> None:
        """Sends a step's outputs to their front ends, one message for each; on the engine's thread."""
        while self._to_close:
            self._to_close.popleft().close()
        touched: list[Link] = []
        for output in outputs:
            owned = self._owned.get(output.request_id)
            if owned is None:
                continue
            if output.finish is not None:
                owned.unfinished -= 1
                if not owned.unfinished:
                    del self._owned[output.request_id]
                    if owned.suspect:
                        self._report_end(owned, _did_no_harm(output.finish))
            if owned.link.empty:
                touched.append(owned.link)
            owned.link.add(owned.first + output.index, output)
        for link in touched:
            link.flush()

    def forget(self, serial: int) -> None:
        """A front end is gone: its requests are cancelled, and what it still asks for is not heard."""
        identity = _identity(serial)
        self._gone.add(identity)
        link = self._links.pop(identity, None)
        if link is None:
            return
        link.gone = True
        orphans = [owned for owned in self._owned.copy().values() if owned.link is link]
        for owned in orphans:
            self._cancel(owned)
        self._to_close.append(link)
        logger.warning("front end %d is gone: cancelled %d requests", serial, len(orphans))

    def announce(self) -> None:
        """Tells each front end what the others have here, so that it can choose among engines."""
        counts = dict.fromkeys(self._links, 0)
        for owned in self._owned.copy().values():
            if owned.identity in counts:
                counts[owned.identity] += owned.unfinished
        everything = sum(counts.values())
        for identity, mine in counts.items():
            self._inlet.send(identity, encode(Busy(everything - mine)))

    def know(self, deaths: Mapping[bytes, int]) -> None:
        """Other engines of the server died while they computed these, or have cleared them (0)."""
        self._quarantine.know(deaths)
        for owned in list(self._owned.copy().values()):
            if owned.held is not None and self._quarantine.refuses(owned.submit.fingerprint):
                owned.held.cancel()
                del self._owned[owned.submit.request.id]
                self._inlet.send(owned.identity, encode(self._refusal(owned.submit)))
        self._let_in_held()

    def passenger(self, request_id: str) -> Passenger:
        """Who a request is that a step computes; on the engine's thread."""
        owned = self._owned[request_id]
        return Passenger(owned.link.serial, owned.first, owned.submit.fingerprint)

    def finish(self) -> None:
        """Tells every front end that nothing follows. After the engine has stopped, for its thread is done."""
        for link in self._links.values():
            link.flush(last=True)

    def close(self) -> None:
        """After the engine has stopped. Idempotent."""
        for link in (*self._links.values(), *self._to_close):
            link.close()
        self._inlet.close()

    @property
    def _running(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def _take(self, message: list[bytes]) -> None:
        identity, body = message
        if identity in self._gone:
            return
        answer = self._handle(identity, body)
        if answer is not None:
            self._inlet.send(identity, encode(answer))

    def _handle(self, identity: bytes, body: bytes) -> ToFrontend | None:
        match decode_to_engine(body):
            case Hello(endpoint, serial):
                self._links[identity] = Link(endpoint, serial)
            case Submit() as submit:
                return self._submit(identity, submit)
            case Cancel(first, request_id, reason, index):
                owned = self._owned.get(request_id)
                # The id may be another request's by now, even another front end's.
                if owned and owned.link is self._links[identity] and owned.first == first:
                    self._cancel(owned, reason, index)
            case Abort(call, request_ids):
                return Aborted(call, self._abort(request_ids))
            case AskLoad(call):
                return LoadIs(call, self._running.load())
        return None

    def _submit(self, identity: bytes, submit: Submit) -> ToFrontend | None:
        request, quarantine = submit.request, self._quarantine
        if request.id in self._owned:
            in_flight = Violation("generation.request_id", "a request with this id is in flight")
            return Refused(submit.first, InvalidRequest(in_flight))
        if quarantine.refuses(submit.fingerprint):
            return self._refusal(submit)
        suspect = quarantine.suspects(submit.fingerprint)
        owned = _Owned(identity, self._links[identity], submit, suspect)
        self._owned[request.id] = owned
        if not quarantine.lets_in(request.id, submit.fingerprint):
            self._hold(owned)
            return None
        return self._let_in(owned)

    def _refusal(self, submit: Submit) -> Refused:
        """Of a request that engines died of."""
        error = EngineFailure(uuid.uuid4().hex[:12])
        what: dict[str, object] = {"id": submit.request.id, "error_id": error.error_id}
        logger.error("refused a request that engines died of: %s", fields(what))
        return Refused(submit.first, error)

    def _let_in(self, owned: _Owned) -> ToFrontend:
        submit = owned.submit
        try:
            self._running.submit(submit.request, again=submit.again)
        except PacelineError as exc:
            del self._owned[submit.request.id]
            if owned.suspect:
                self._report_end(owned, False)
            return Refused(submit.first, exc)
        return Accepted(submit.first)

    def _hold(self, owned: _Owned) -> None:
        """Keeps a suspect until its turn, or until its time is up: then the engine ends it, uncomputed."""
        request = owned.submit.request
        limits = (request.deadline, request.time_limit)
        left_s = min((t for t in limits if t is not None), default=_YEAR_S) - time.monotonic()
        owned.held = self._loop.call_later(left_s, self._release, owned)

    def _release(self, owned: _Owned) -> None:
        assert owned.held is not None
        owned.held.cancel()
        owned.held = None
        self._inlet.send(owned.identity, encode(self._let_in(owned)))

    def _cancel(
        self,
        owned: _Owned,
        reason: FinishReason = FinishReason.CANCELLED,
        index: int | None = None,
    ) -> None:
        submit = owned.submit
        if owned.held is not None:
            # The engine has to end it, and must not compute it: as one whose time is up, whichever it reads first.
            over = replace(submit.request, deadline=None, time_limit=0.0, constraint=None)
            owned.submit = msgspec.structs.replace(submit, request=over)
            self._release(owned)
        self._running.cancel(submit.request.id, reason, index)

    def _report_end(self, owned: _Owned, well: bool) -> None:
        """A suspect ended: whoever comes next may go in. Any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody comes next
            self._loop.call_soon_threadsafe(self._ended, owned, well)

    def _ended(self, owned: _Owned, well: bool) -> None:
        submit = owned.submit
        if self._quarantine.left(submit.request.id, submit.fingerprint, well):
            self._cleared(submit.fingerprint)
        self._let_in_held()

    def _let_in_held(self) -> None:
        """Who is suspected no more, and the next suspect if its place is free."""
        for each in [held for held in self._owned.copy().values() if held.held is not None]:
            if self._quarantine.lets_in(each.submit.request.id, each.submit.fingerprint):
                self._release(each)

    def _abort(self, request_ids: list[str] | None) -> int:
        known = self._owned.copy()
        wanted = known if request_ids is None else set(request_ids)
        found = [known[request_id] for request_id in wanted if request_id in known]
        for owned in found:
            self._cancel(owned, FinishReason.ABORTED)
        return len(found)


def _did_no_harm(finish: Finish) -> bool:
    """Whether a suspect's end clears it: one that left before it was computed has shown nothing."""
    return finish.error is None and finish.usage.completion_tokens > 0


def _identity(serial: int) -> bytes:
    return b"frontend-%d" % serial

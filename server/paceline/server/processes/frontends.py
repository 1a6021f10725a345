"""The front ends of a server: started, restarted when they die, and told what goes on."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Collection
from pathlib import Path

from ..config import ServeConfig
from ..errors import SetupError
from ..facts import Facts
from ..play import Play
from ..tally import Tally
from .backoff import Backoff
from .flight_record import Passenger
from .launch import ANSWER_S, Child
from .orders import (
    AwaitIdle,
    Claim,
    Claimed,
    Close,
    EngineGone,
    FromFrontend,
    Leave,
    Listening,
    Observed,
    Open,
    Performed,
    Release,
    Serving,
    StartFrontend,
)
from .plays import Plays

logger = logging.getLogger(__name__)

_MODULE = "paceline.server.processes.frontend"
_BACKOFF_S = (0.1, 10.0, 30.0)  # the first delay, the longest, and a steady life


class _Frontend:
    """One place among the front ends; a process at a time fills it."""

    def __init__(self) -> None:
        self.child: Child[FromFrontend] | None = None
        self.serial = 0
        self.up = False  # whether this process listens
        self.listening = asyncio.Event()
        self.serving = asyncio.Event()
        self.keeper: asyncio.Task[None] | None = None
        self.error: SetupError | None = None


class Frontends:
    """Owns the processes.

    Args:
        ports: gRPC's, and HTTP's if there is one.
        tally: gets what they count.
        gone: told the serial of each one that died.
    """

    def __init__(
        self,
        config: ServeConfig,
        ports: tuple[int, int | None],
        folder: Path,
        tally: Tally,
        gone: Callable[[int], None],
    ) -> None:
        self._config = config
        self._port, self._http_port = ports
        self._folder = folder
        self._tally = tally
        self._gone = gone
        self._serials = itertools.count(1)
        self._places: list[_Frontend] = []
        self._plays = Plays()
        self._open: dict[int, Open] = {}  # of each engine that is up, by its number
        # Of requests, with the serial of the front end that claimed it.
        self._ids: dict[str, int] = {}
        self._leaving = False

    def begin(self, play: Play) -> None:
        """Has a front end answer a prompt of the playground."""
        up = [place.child for place in self._places if place.up and place.child is not None]
        self._plays.begin(play, random.choice(up) if up else None)

    def cancel(self, play: Play) -> None:
        """Nobody waits for it any more."""
        self._plays.cancel(play)

    async def start(self, count: int) -> None:
        """Returns when all listen. SetupError if one cannot."""
        self._places = [_Frontend() for _ in range(count)]
        for place in self._places:
            place.keeper = asyncio.create_task(self._keep(place))
        for place in self._places:
            await _event_or_end(place, place.listening)

    def open(self, facts: Facts, generation: int, replica: int = 0) -> None:
        """There is an engine, the first or a later one: serve."""
        order = self._open[replica] = Open(facts, generation, replica)
        for place in self._places:
            self._tell_open(place, order)

    async def serving(self) -> None:
        """Returns when all serve for the first time."""
        for place in self._places:
            await _event_or_end(place, place.serving)

    def engine_gone(
        self, on_board: Collection[Passenger], back_in_s: float, replica: int = 0
    ) -> None:
        """An engine died and computed these requests."""
        self._open.pop(replica, None)
        for place in self._places:
            if place.child is not None and place.up:
                first = [each.first for each in on_board if each.frontend == place.serial]
                place.child.send(EngineGone(first, back_in_s, replica))

    async def leave(self) -> None:
        """Health says NOT_SERVING everywhere but where one hangs, and none is restarted any more. Idempotent."""
        if self._leaving:
            return
        self._leaving = True
        await asyncio.gather(*(child.ask(Leave) for child in self._children))

    async def answered(self, timeout_s: float) -> bool:
        """Waits until no call is being answered; whether that came true in time. One that is gone answers none."""
        asked = self._children
        answers = await asyncio.gather(
            *(
                child.ask(lambda call: AwaitIdle(call, timeout_s), timeout_s + ANSWER_S)
                for child in asked
            )
        )
        return all(ok or child.ended for child, ok in zip(asked, answers, strict=True))

    async def close(self, timeout_s: float) -> None:
        """Ends them all; those that do not end by themselves in time are killed."""
        self._leaving = True
        for child in self._children:
            child.send(Close())
        for place in self._places:
            if place.child is None and place.keeper is not None:
                place.keeper.cancel()  # it waits for a restart
        keepers = [place.keeper for place in self._places if place.keeper is not None]
        if not keepers:
            return
        _, late = await asyncio.wait(keepers, timeout=timeout_s)
        for child in self._children if late else ():
            child.kill()
        await asyncio.gather(*keepers, return_exceptions=True)

    @property
    def _children(self) -> list[Child[FromFrontend]]:
        return [place.child for place in self._places if place.child is not None]

    async def _keep(self, place: _Frontend) -> None:
        """Fills a place until the server leaves."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(*_BACKOFF_S)
        while not self._leaving:
            begun, serial = loop.time(), next(self._serials)
            try:
                child = await self._start(serial)
            except OSError as exc:
                if not place.serving.is_set():
                    raise  # nobody was served yet: `start` or `open` tells
                end = f"could not be started ({exc})"
            else:
                code = await self._follow(place, child, serial)
                if code is None:
                    return
                end = f"died (exit code {code})"
            delay = backoff.after(loop.time() - begun)
            logger.error("a front end %s: restarting in %g s", end, delay)
            await asyncio.sleep(delay)

    async def _follow(
        self, place: _Frontend, child: Child[FromFrontend], serial: int
    ) -> int | None:
        """Hears a process to its end; its exit code, or None if no other one is to follow it."""
        place.child, place.serial, place.up = child, serial, False
        code = await child.follow(lambda message: self._take(place, message))
        place.child = None
        self._plays.gone(child)
        self._ids = {name: owner for name, owner in self._ids.items() if owner != serial}
        if code or not self._leaving:
            self._gone(serial)
        if self._leaving:
            return None
        if not place.serving.is_set():
            place.error = SetupError(child.line or "a front end could not start; see the log")
            return None
        return code

    def _tell_open(self, place: _Frontend, order: Open) -> None:
        # While the server drains, too: what waits for a new engine is still to be answered.
        if place.child is not None and place.up:
            place.child.send(order)

    async def _start(self, serial: int) -> Child[FromFrontend]:
        config = self._config.model_dump(mode="json")
        order = StartFrontend(config, self._port, str(self._folder), serial, self._http_port)
        return await Child[FromFrontend].start(_MODULE, order, FromFrontend)

    def _take(self, place: _Frontend, message: FromFrontend) -> None:
        match message:
            case Listening():
                place.up = True
                place.listening.set()
                for order in self._open.values():
                    self._tell_open(place, order)
            case Serving():
                place.serving.set()
            case Observed(tally):
                self._tally.add(tally)
            case Performed():
                self._plays.take(message)
            case Claim(call, request_id) if place.child is not None:
                free = request_id not in self._ids
                if free:
                    self._ids[request_id] = place.serial
                place.child.send(Claimed(call, free))
            case Release(request_id) if self._ids.get(request_id) == place.serial:
                del self._ids[request_id]


async def _event_or_end(place: _Frontend, event: asyncio.Event) -> None:
    assert place.keeper is not None
    waiter = asyncio.create_task(event.wait())
    await asyncio.wait({waiter, place.keeper}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if place.error is not None:
        raise place.error
    if place.keeper.done():
        place.keeper.result()

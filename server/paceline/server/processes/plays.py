"""The playground's requests on their way through a front end's process."""

from __future__ import annotations

import itertools

from ..play import Play, failure
from .launch import Child
from .orders import CancelPlay, FromFrontend, Perform, Performed


class Plays:
    """Those that front ends have not answered to the end, on the supervisor's side of the pipes."""

    def __init__(self) -> None:
        self._calls = itertools.count()
        self._running: dict[int, tuple[Play, Child[FromFrontend]]] = {}

    def begin(self, play: Play, child: Child[FromFrontend] | None) -> None:
        """Gives it to this front end; None: there is none that could take it."""
        if child is None:
            _fail(play, "no front end is there to take it")
            return
        call = next(self._calls)
        self._running[call] = (play, child)
        child.send(Perform(call, play.body, play.authorization))

    def take(self, message: Performed) -> None:
        """A front end answered. Nobody may be there to read it any more."""
        found = self._running.get(message.call)
        if found is not None:
            found[0].put(message.line)
            if not message.line:
                del self._running[message.call]

    def cancel(self, play: Play) -> None:
        """Nobody waits for the answer any more."""
        for call, (each, child) in list(self._running.items()):
            if each is play:
                child.send(CancelPlay(call))
                del self._running[call]

    def gone(self, child: Child[FromFrontend]) -> None:
        """A front end died, and answers no more."""
        for call, (play, owner) in list(self._running.items()):
            if owner is child:
                _fail(play, "the front end that answered is gone")
                del self._running[call]


def _fail(play: Play, message: str) -> None:
    play.put(failure("UNAVAILABLE", message))
    play.put(b"")

"""The engines of a server, one or several, each with its keeper."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import ServeConfig
from ..facts import Facts
from ..request import Load
from .engine_view import EngineView
from .flight_record import Passenger
from .keeper import Keeper, Listeners
from .loads import total
from .shares import config_of, folder_of
from .suspects import Suspects


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is told what a keeper's `Listeners` are told, with the number of the engine at the end."""

    ready: Callable[[Facts, int, int], None]
    gone: Callable[[Collection[Passenger], float, int], None]


class Engines:
    """Keeps all engines. What one dies of is known to the others, and it takes all of them to fail.

    Args:
        loader: `module:function`.
        folder: the server's own.

    Raises:
        SetupError: the settings do not go with so many engines.
    """

    def __init__(self, config: ServeConfig, loader: str, folder: Path, audience: Audience) -> None:
        self.failed = asyncio.Event()  # none is started any more
        self._change = asyncio.Event()  # the next time that an engine is ready or dies
        self._keepers: list[Keeper] = []
        suspects = Suspects()
        for number in range(config.replicas):
            own = folder_of(number, config, folder)
            own.mkdir(exist_ok=True)
            listeners = Listeners(
                partial(self._changed, audience.ready, number),
                partial(self._changed, audience.gone, number),
                partial(self._suspected, number),
            )
            name = "the engine" if config.replicas == 1 else f"engine {number}"
            keeper = Keeper(
                config_of(number, config), loader, own, listeners, suspects=suspects, name=name
            )
            self._keepers.append(keeper)
        self._failing = asyncio.create_task(self._wait_for_failure())

    @property
    def views(self) -> list[EngineView]:
        """Each engine as of its latest word."""
        return [keeper.view for keeper in self._keepers]

    @property
    def healthy(self) -> bool:
        """Whether there is an engine. Any thread."""
        return any(view.healthy for view in self.views)

    def load(self) -> Load:
        """What the engines do together. Any thread."""
        if len(self._keepers) == 1:
            return self._keepers[0].view.load()
        return total([view.load() if view.healthy else None for view in self.views])

    async def start(self) -> Facts:
        """Returns when all are warm for the first time. SetupError if one cannot be loaded."""
        facts, *_ = await asyncio.gather(*(keeper.start() for keeper in self._keepers))
        return facts

    def frontend_gone(self, serial: int) -> None:
        for keeper in self._keepers:
            keeper.frontend_gone(serial)

    async def refuse(self) -> None:
        """New requests are refused from now on, by later engines too."""
        await asyncio.gather(*(keeper.refuse() for keeper in self._keepers))

    async def idle(self, timeout_s: float) -> bool:
        """Waits until nothing runs or waits; whether that came true in time.

        An engine that is down is not waited for while others are up: they have its requests. So what they say counts
        only if none has died or got ready meanwhile.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            change, left_s = self._change, max(0.0, until - loop.time())
            up = [keeper for keeper in self._keepers if keeper.up]
            idle = all(await asyncio.gather(*(each.idle(left_s) for each in up)))
            if up and not change.is_set():
                return idle
            try:
                await asyncio.wait_for(change.wait(), left_s)
            except TimeoutError:
                return False

    async def stop(self) -> None:
        """Ends what runs with ABORTED. Idempotent."""
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers))

    async def close(self) -> None:
        """Ends the processes, and starts no others. Idempotent."""
        self._failing.cancel()
        await asyncio.gather(*(keeper.close() for keeper in self._keepers))

    def _suspected(self, number: int, deaths: Mapping[bytes, int]) -> None:
        for other, keeper in enumerate(self._keepers):
            if other != number:
                keeper.suspected(deaths)

    def _changed(self, listener: Callable[..., None], number: int, *words: object) -> None:
        self._change.set()
        self._change = asyncio.Event()
        listener(*words, number)

    async def _wait_for_failure(self) -> None:
        for keeper in self._keepers:
            await keeper.failed.wait()
        self.failed.set()

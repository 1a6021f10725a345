"""When a server with several engines is idle, whichever of them die and come back meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from mock_serving import WAIT_S
from paceline.server.config import ServeConfig
from paceline.server.processes import engines
from paceline.server.processes.engines import Audience, Engines
from paceline.server.processes.keeper import Listeners


class ManualKeeper:
    """The part of a `Keeper` that a drain needs: the test lives the engine's life."""

    def __init__(
        self, config: ServeConfig, loader: str, folder: Path, listeners: Listeners, **_: Any
    ) -> None:
        self.up = True
        self.failed = asyncio.Event()
        self._listeners = listeners
        self._asked: asyncio.Queue[asyncio.Future[bool]] = asyncio.Queue()
        self._answer: asyncio.Future[bool] | None = None

    async def idle(self, timeout_s: float) -> bool:
        self._answer = asyncio.get_running_loop().create_future()
        self._asked.put_nowait(self._answer)
        return await self._answer

    async def asked(self) -> asyncio.Future[bool]:
        """The answer to the next question whether it is idle."""
        async with asyncio.timeout(WAIT_S):
            return await self._asked.get()

    def die(self) -> None:
        self.up = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(False)
        self._listeners.gone((), 1.0)

    def come_back(self) -> None:
        self.up = True
        self._listeners.ready(cast(Any, None), 2)

    async def close(self) -> None:
        pass


async def test_a_drain_follows_requests_to_the_engines_that_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who said it is idle is asked again when another dies or comes back, and who is down is not waited for."""
    monkeypatch.setattr(engines, "Keeper", ManualKeeper)
    config = ServeConfig(port=0, metrics_port=None, device="cpu", replicas=2)
    both = Engines(config, "", tmp_path, Audience(lambda *_: None, lambda *_: None))
    one, two = cast(list[ManualKeeper], both._keepers)
    idle = asyncio.create_task(both.idle(WAIT_S))
    (await two.asked()).set_result(True)  # it has not got the requests of the other one yet
    await one.asked()
    one.die()
    again = await two.asked()
    one.come_back()
    again.set_result(True)
    (await two.asked()).set_result(True)
    last = await one.asked()
    assert not idle.done()
    last.set_result(True)
    async with asyncio.timeout(WAIT_S):
        assert await idle

    for each in (one, two):
        each.die()
    idle = asyncio.create_task(both.idle(WAIT_S))
    await asyncio.sleep(0)
    two.come_back()
    (await two.asked()).set_result(True)
    async with asyncio.timeout(WAIT_S):
        assert await idle
    two.die()
    assert not await both.idle(0)
    await both.close()

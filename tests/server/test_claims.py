"""Whose request an id is, when its caller leaves in the very moment in which an answer comes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paceline.server.config import ServeConfig
from paceline.server.processes.claims import Claims
from paceline.server.processes.frontends import Frontends, _Frontend
from paceline.server.processes.orders import Claim, FromFrontend, Release
from paceline.server.processes.remote_engine import RemoteEngine
from paceline.server.processes.replicas import Replicas
from paceline.server.processes.routing import Router
from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.stream import Hub
from paceline.server.tally import Tally

REQUEST = Request("a", (3, 4), SamplingParams(), StoppingParams(4), 0.0, 1)


class Side:
    """A front end's side of a server with one engine, which never answers."""

    def __init__(self, folder: Path) -> None:
        self.told: list[FromFrontend] = []
        self.claims = Claims(self.told.append)
        hub = Hub(asyncio.get_running_loop())
        self.engine = RemoteEngine(hub, folder, serial=1, over=self.claims.release)
        router = Router(1, page_size=0, pages=0, slack=1)
        self.replicas = Replicas([self.engine], router, self.claims)
        self.replicas.connect(0, 1)
        self.starting = asyncio.create_task(self.replicas.start(REQUEST))

    async def submit(self) -> None:
        """The id is its own, and the request is on its way to the engine."""
        await asyncio.sleep(0)
        self.claims.answered(0, True)
        await asyncio.sleep(0)
        assert self.engine.has(REQUEST.id)

    async def leave(self) -> None:
        self.starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.starting


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:  # short enough for sockets
        made = Side(Path(folder))
        yield made
        made.engine.close()


CLAIM, RELEASE = Claim(0, REQUEST.id), Release(REQUEST.id)


async def test_leaving_when_the_claim_is_answered(side: Side) -> None:
    """An id that nobody will use is free again."""
    await asyncio.sleep(0)
    side.claims.answered(0, True)
    await side.leave()
    assert side.told == [CLAIM, RELEASE]


@pytest.mark.parametrize("ok", [True, False])
async def test_leaving_before_the_claim_is_answered(side: Side, ok: bool) -> None:
    """The id is given back when it comes, unless it is another's."""
    await asyncio.sleep(0)
    await side.leave()
    side.claims.answered(0, ok)
    assert side.told == [CLAIM, RELEASE] if ok else [CLAIM]


async def test_leaving_when_the_engine_fails(side: Side) -> None:
    """No engine is left that would release the id at the end of the request."""
    await side.submit()
    side.replicas.gone(0, [0], 1.0)
    await side.leave()
    assert side.told == [CLAIM, RELEASE]


async def test_leaving_while_the_engine_has_it(side: Side) -> None:
    """The id stays taken until the engine is done with the request, or dead."""
    await side.submit()
    await side.leave()
    assert side.told == [CLAIM]
    side.replicas.gone(0, [], 1.0)
    assert side.told == [CLAIM, RELEASE]


async def test_an_id_is_its_owners_to_release(tmp_path: Path) -> None:
    """What another front end says of it changes nothing."""
    config = ServeConfig(port=0, metrics_port=None)
    frontends = Frontends(config, (0, None), tmp_path, Tally(), lambda _: None)
    owner, other = _Frontend(), _Frontend()
    owner.serial, other.serial = 1, 2
    frontends._ids["a"] = owner.serial
    frontends._take(other, RELEASE)
    assert frontends._ids == {"a": 1}
    frontends._take(owner, RELEASE)
    assert not frontends._ids

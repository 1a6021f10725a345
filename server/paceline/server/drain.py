"""The order in which a server goes away, whatever its processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

logger = logging.getLogger(__name__)

_ENDING_S = 0.2  # a call whose answer is on its way takes a moment to be over


class Drainable(Protocol):
    """A server that serves."""

    async def announce(self) -> None:
        """Health says NOT_SERVING from now on."""
        ...

    async def refuse(self) -> None:
        """New requests are refused from now on."""
        ...

    async def finished(self, timeout_s: float) -> bool:
        """Waits until the engine is idle and every reader, slow ones too, has its answer; whether in time."""
        ...

    async def abort(self) -> None:
        """Ends what still runs, each request with what it made so far."""
        ...


async def drain(
    server: Drainable, *, delay_s: float, timeout_s: float, force: asyncio.Event
) -> bool:
    """Lets what runs finish; whether it did, before the time was up or `force` was set.

    In order: NOT_SERVING, a while for load balancers to notice, refuse new requests, wait, abort the rest.
    """
    await server.announce()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(force.wait(), delay_s)
    await server.refuse()
    if await server.finished(_ENDING_S):
        return True  # nothing to force
    finished = asyncio.create_task(server.finished(timeout_s))
    forced = asyncio.create_task(force.wait())
    await asyncio.wait({finished, forced}, return_when=asyncio.FIRST_COMPLETED)
    forced.cancel()
    if finished.done() and finished.result():
        return True
    logger.warning("drain cut short: aborting what still runs")
    await server.abort()
    finished.cancel()
    return False

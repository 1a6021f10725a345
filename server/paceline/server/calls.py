"""How many calls are being answered, through whichever port they came. Belongs to one event loop."""

from __future__ import annotations

import asyncio
import contextlib


class Calls:
    """Each one is answered inside `with calls:`."""

    def __init__(self) -> None:
        self._none = asyncio.Event()
        self._none.set()
        self._count = 0

    async def wait_idle(self, timeout_s: float) -> bool:
        """Waits until none is being answered; whether that came true in time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), timeout_s)
        return self._none.is_set()

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(self, *exc_info: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

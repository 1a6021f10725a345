"""Kills an engine that hangs: its thread in a step, or its loop."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from . import flight_record
from .launch import Child
from .orders import FromEngine

logger = logging.getLogger(__name__)

_LOOKS = 4  # at the flight record, in the time that a step may take


class Watchdog:
    """Watches one engine, from its first word after loading, which may take any time.

    Args:
        record: its flight record.
        timeout_s: what a step may take; None: any time.
        name: of the engine, in the log.

    Attributes:
        hung: whether it was killed.
    """

    def __init__(
        self, child: Child[FromEngine], record: Path, timeout_s: float | None, name: str
    ) -> None:
        self.hung = False
        self._child = child
        self._record = record
        self._name = name
        self._heard_at: float | None = None  # by the monotonic clock
        self._task = asyncio.create_task(self._watch(timeout_s))

    def heard(self) -> None:
        """It said something."""
        self._heard_at = time.monotonic()

    def stop(self) -> None:
        """It has ended."""
        self._task.cancel()

    async def _watch(self, timeout_s: float | None) -> None:
        while timeout_s is not None:
            await asyncio.sleep(timeout_s / _LOOKS)
            since = flight_record.read(self._record).since
            if self._heard_at is None:
                continue
            oldest = min(self._heard_at, since or self._heard_at)
            if time.monotonic() - oldest > timeout_s:
                logger.critical("%s made no progress for %g s: killing it", self._name, timeout_s)
                self.hung = True
                self._child.kill()
                return

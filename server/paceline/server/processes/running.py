"""A request that a front end has given to an engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..request import Request
from ..stream import OutputStream


@dataclass(slots=True)
class Running:
    """A request in flight. Its completions have the slots from `first` on, which change with the engine."""

    request: Request
    fingerprint: bytes
    stream: OutputStream
    answer: asyncio.Future[None]
    first: int = -1
    unfinished: int = 0
    deaths: int = 0  # of engines that had it

"""An engine as the rest of the server sees it."""

from __future__ import annotations

from ..request import Load


class EngineView:
    """The engine as of its latest word. Any thread."""

    def __init__(self) -> None:
        self.healthy = False
        self.latest = Load()

    def load(self) -> Load:
        return self.latest

"""What operators look at: metrics and the dashboard, on a port of their own."""

from __future__ import annotations

from collections.abc import Sequence

from . import dashboard, listen, security
from .config import ServeConfig
from .history import History
from .metrics import Metrics, Watched
from .server_info import ServerInfo, version
from .web import Page, Web
from .web_play import Stage


class Console:
    """One for a server, whatever its processes: answers while the model loads, too.

    Args:
        broken: what a server without a living engine is.
    """

    def __init__(self, config: ServeConfig, broken: str = "failed") -> None:
        self.metrics = Metrics()
        self.stage = Stage(security.no_playground(config))
        self.port: int | None = None
        self._config = config
        self._broken = broken
        self._history = History()
        self._engine: Watched | None = None
        self._info: ServerInfo | None = None
        self._web: Web | None = None

    def open(self) -> None:
        """Takes the port, if there is to be one. SetupError if it cannot be had."""
        host, port = self._config.metrics_host, self._config.metrics_port
        if port is None:
            return
        html, policy = dashboard.page()
        pages = {
            "/": Page("text/html; charset=utf-8", lambda: html, policy),
            "/status.json": Page("application/json", self._status),
            "/metrics": Page(
                "text/plain; version=0.0.4; charset=utf-8", self.metrics.text, any_host=True
            ),
        }
        try:
            self._web = Web(host, port, pages, {"/playground": self.stage.answer})
        except OSError as exc:
            raise listen.cannot_listen(host, port, "--metrics-port", exc) from exc
        self.port = self._web.port

    def watch(self, engine: Watched, info: ServerInfo, each: Sequence[Watched] = ()) -> None:
        """Shows this engine from now on, or these together, and `each` of them in the metrics."""
        model, config = info.model, info.config
        facts = {"version": version(), "model": model.name, "mode": config.mode.value}
        facts |= {"dtype": model.dtype, "device": model.device}
        self.metrics.watch(*(each or [engine]), facts=facts)
        self._engine, self._info = engine, info

    def remember(self) -> None:
        """Adds a point to the curves; called once a second, by the thread that counts."""
        if self._engine is not None:
            self._history.add(self._engine.load(), self.metrics.tally.glimpse.take())

    def close(self) -> None:
        """Idempotent."""
        if self._web is not None:
            self._web.close()
            self._web = None

    def _status(self) -> bytes:
        engine, info = self._engine, self._info
        if engine is None or info is None:
            return dashboard.loading_json(self._config.model or "")
        load = engine.load()
        state = "draining" if load.draining else "serving"
        return dashboard.status_json(
            info, self._config, load, self._history, state if engine.healthy else self._broken
        )

"""What operators look at: metrics and the status page, on a port of their own."""

from __future__ import annotations

from . import listen, status_page
from .config import ServeConfig
from .history import History
from .metrics import Metrics, Watched
from .server_info import ServerInfo, version
from .web import Page, Web


class Console:
    """One for a server, whatever its processes: answers while the model loads, too."""

    def __init__(self, config: ServeConfig) -> None:
        self.metrics = Metrics()
        self.port: int | None = None
        self._config = config
        self._history = History()
        self._engine: Watched | None = None
        self._info: ServerInfo | None = None
        self._web: Web | None = None

    def open(self) -> None:
        """Takes the port, if there is to be one. SetupError if it cannot be had."""
        host, port = self._config.metrics_host, self._config.metrics_port
        if port is None:
            return
        pages = {
            "/": Page("text/html; charset=utf-8", status_page.html),
            "/status.json": Page("application/json", self._status),
            "/metrics": Page("text/plain; version=0.0.4; charset=utf-8", self.metrics.text),
        }
        try:
            self._web = Web(host, port, pages)
        except OSError as exc:
            raise listen.cannot_listen(host, port, "--metrics-port", exc) from exc
        self.port = self._web.port

    def watch(self, engine: Watched, info: ServerInfo) -> None:
        """Shows this engine from now on."""
        model, config = info.model, info.config
        facts = {"version": version(), "model": model.name, "mode": config.mode.value}
        self.metrics.watch(engine, facts | {"dtype": model.dtype, "device": model.device})
        self._engine, self._info = engine, info

    def remember(self) -> None:
        """Adds a point to the curves; called once a second."""
        if self._engine is not None:
            self._history.add(self._engine.load())

    def close(self) -> None:
        """Idempotent."""
        if self._web is not None:
            self._web.close()
            self._web = None

    def _status(self) -> bytes:
        engine, info = self._engine, self._info
        if engine is None or info is None:
            return status_page.loading_json(self._config.model or "")
        load = engine.load()
        state = "draining" if load.draining else "serving"
        return status_page.status_json(
            info, load, self._history, state if engine.healthy else "failed"
        )

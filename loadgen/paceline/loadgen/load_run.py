"""Runs of the load generator against one server, one after the other: what each recorded, and the server's samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from paceline.loadgen.children import Child
from paceline.loadgen.client_health import read_health
from paceline.loadgen.http_probe import ServerProbe
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.progress import Progress
from paceline.loadgen.recorder import read_requests
from paceline.loadgen.series import Sample
from paceline.loadgen.sweep import Sweep
from paceline.loadgen.timing import Record


class LoadRuns:
    """One mode's runs. `records` and `headers` grow with each run, also with one that fails."""

    def __init__(
        self,
        probe: ServerProbe,
        mode: str,
        series: Path,
        server: Child | None,
        progress: Progress,
        gone: Callable[[], str | None],
    ) -> None:
        self.records: list[Record] = []
        self.headers: list[dict[str, Any]] = []
        self.samples: list[Sample] = []
        self.health: list[Sample] = []
        self.progress = progress
        self._probe = probe
        self._mode = mode
        self._series = series
        self._server = server
        self._gone = gone

    def run(
        self, load: LoadOptions, *, limit_s: float, keep: bool = True, quiet: bool = False
    ) -> list[Record]:
        """Runs it to its end; what it recorded. `keep` False: for this answer only. Raises SweepFailed."""
        folder = Path(load.out)
        sweep = Sweep(
            load,
            self._probe,
            self._mode,
            folder,
            series=self._series,
            server=self._server,
            limit_s=limit_s,
            quiet=quiet,
        )
        found: list[Record] = []
        try:
            sweep.run(self.progress, self._gone)
        finally:
            headers, found = read_requests(folder)
            self.headers += headers
            if keep:
                self.records += found
                self.samples += sweep.samples
                self.health += read_health(folder)
        return found

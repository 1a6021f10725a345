"""Child processes of the bench: started with a log file, ended by their own id, never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

STOP_S = 15.0


class Child:
    """One process in a session of its own, so that Ctrl-C reaches the bench alone, which ends its children in order."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        stdout: Path | None = None,
    ) -> None:
        self.command = list(command)
        self.log = log
        self.started_s = time.perf_counter()
        self.memory_peak_mib: float | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            errors = opened.enter_context(log.open("ab"))
            output = opened.enter_context(stdout.open("wb")) if stdout else errors
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._watched: dict[int, psutil.Process] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def last_line(self) -> str:
        """The last line of the log with anything in it: what a process says before it gives up."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def usage(self) -> tuple[float, float]:
        """(CPU per cent of one core since the last call, resident MiB), its own children included."""
        cpu = memory = 0.0
        with contextlib.suppress(psutil.Error):
            main = self._watched.setdefault(self.pid, psutil.Process(self.pid))
            for process in [main, *main.children(recursive=True)]:
                known = self._watched.setdefault(process.pid, process)
                with contextlib.suppress(psutil.Error):
                    cpu += known.cpu_percent(None)
                    memory += known.memory_info().rss / 2**20
        self.memory_peak_mib = max(self.memory_peak_mib or 0.0, memory) or None
        return cpu, memory

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM, and SIGKILL to its whole session after `timeout_s`. The exit code; safe to call again."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

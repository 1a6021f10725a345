"""Runs commands within a budget and keeps what they print, in a file that is whole after each of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_ERROR_TAIL = 1500  # characters of a failed command's messages that are kept
_STOP_S = 20.0
_LEAST_S = 60.0  # that a measurement may take

Result = dict[str, Any]


class Failed(Exception):
    """A command that did not do its work. `lines`: what it had printed before."""

    def __init__(self, problem: str, lines: list[Result] | None = None) -> None:
        super().__init__(problem)
        self.lines = lines or []


class Bench:
    """Results by name, the time that is left, and whether anything failed.

    Args:
        out: file to write and to go on from; None: nothing is kept.
        folder: for what commands need in files.
        missing: measure only what the file has no result of.
    """

    def __init__(
        self, out: Path | None, budget_s: float, folder: Path, *, missing: bool = False
    ) -> None:
        self.folder = folder
        self._missing = missing
        self.failed = False
        self._out = out
        self._messages: dict[int, Path] = {}  # what each process said on standard error
        self._end = self._unit_end = time.monotonic() + budget_s
        self.results: Result = {"units": {}}
        if out is not None and out.exists():
            self.results = json.loads(out.read_text())

    @property
    def left_s(self) -> float:
        return self._end - time.monotonic()

    def environment(self, copy_mib: int, matmul_size: int) -> None:
        """Describes and measures the machine. A file of another machine or other versions is not added to."""
        command = ["benchmarks/environment.py", "--mib", str(copy_mib), "--size", str(matmul_size)]
        (found,) = self.lines(command)
        before = self.results.get("environment")
        if before is not None and _identity(before) != _identity(found):
            raise SystemExit(f"{self._out} is of another machine or of other versions")
        self.results["environment"] = found
        calls = self.results.setdefault("calls", [])
        calls.append({"date": found["date"], "arguments": sys.argv[1:]})
        self._write()

    def unit(self, name: str, needs_s: float, measure: Callable[[], Result]) -> None:
        """Measures one thing and keeps it, or keeps why there is nothing.

        Args:
            needs_s: about how long it takes; with less time left it is not begun, and it may take thrice as long.
        """
        if self._missing and self.result(name) is not None:
            return
        started = time.monotonic()
        self._unit_end = min(self._end, started + max(_LEAST_S, 3 * needs_s))
        if self.left_s < needs_s:
            if "result" not in self.results["units"].get(name, {}):
                self.results["units"][name] = {"skipped": f"{self.left_s:.0f} s were left"}
            self._tell(f"{name}: skipped, {self.left_s:.0f} s left")
        else:
            self._tell(f"{name} …")
            try:
                unit: Result = {"result": measure()}
            except Failed as exc:
                self.failed = True
                unit = {"error": str(exc)}
                self._tell(f"{name}: {exc}")
            unit["took_s"] = round(time.monotonic() - started, 1)
            self.results["units"][name] = unit
            self._tell(f"{name}: {unit['took_s']} s")
        self._write()

    def result(self, name: str) -> Result | None:
        """What was measured under a name."""
        found: Result | None = self.results["units"].get(name, {}).get("result")
        return found

    def lines(self, command: Sequence[str]) -> list[Result]:
        """The JSON objects that a Python command prints, one a line. Raises Failed."""
        with self.process(command) as process:
            problem = None
            try:
                output, _ = process.communicate(timeout=self._patience_s())
            except subprocess.TimeoutExpired:
                problem = "its time ended first"
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
        # A last line that was cut short is none.
        whole = output[: output.rfind("\n") + 1].splitlines()
        lines = [json.loads(line) for line in whole if line.startswith("{")]
        if process.returncode and problem is None:
            problem = f"exit code {process.returncode}: {self._errors(process)}"
        if problem is not None:
            raise Failed(problem, lines)
        return lines

    @contextlib.contextmanager
    def process(self, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """A Python command in a session of its own; at the end of the block all of it has ended."""
        path = self.folder / f"messages-{len(self._messages)}"
        with path.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._messages[process.pid] = path
        try:
            yield process
        finally:
            _end(process)

    def first_line(self, process: subprocess.Popen[str]) -> str:
        """The first line that a process prints. Raises Failed if it ends before that."""
        assert process.stdout is not None
        timer = threading.Timer(self._patience_s(), process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if not line:
            raise Failed(f"ended before it was ready: {self._errors(process)}")
        return line

    def _patience_s(self) -> float:
        return max(1.0, self._unit_end - time.monotonic())

    def _errors(self, process: subprocess.Popen[str]) -> str:
        text = self._messages[process.pid].read_text(errors="replace").replace(str(ROOT), ".")
        return text[-_ERROR_TAIL:]

    def _write(self) -> None:
        if self._out is not None:
            new = self._out.with_suffix(".new")
            new.write_text(json.dumps(self.results, indent=1) + "\n")
            new.replace(self._out)

    def _tell(self, line: str) -> None:
        sys.stderr.write(f"[{self.left_s:4.0f} s left] {line}\n")


def spelled(command: Sequence[str], folder: Path) -> str:
    """A command as a reader would type it, from the root of the repository."""
    text = " ".join(["python", *command]).replace("python -m paceline.client.cli", "paceline")
    return text.replace(f"{folder}/", "").replace(f"{ROOT}/", "")


def _identity(environment: Result) -> tuple[Any, ...]:
    return tuple(environment.get(key) for key in ("gpu", "cpu", "python", "versions"))


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process and its children, which share its session."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()

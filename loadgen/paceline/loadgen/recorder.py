"""Writes what happened to every generation: one compact JSON line each, one file per worker process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from paceline.loadgen.timing import Record

SCHEMA_VERSION = 1
FLUSH_S = 1.0


class Recorder:
    """Owns `<folder>/requests.<worker>.jsonl`: a header line, then records, written about once a second."""

    def __init__(self, folder: Path, worker: int, *, clock: Callable[[], float]) -> None:
        self.path = folder / f"requests.{worker}.jsonl"
        self._clock = clock
        self._lines: list[str] = []
        self._written_s = clock()
        folder.mkdir(parents=True, exist_ok=True)
        # "x": an earlier run's records are never overwritten.
        self._file: TextIO = self.path.open("x", encoding="utf-8")

    def write_header(self, header: dict[str, Any]) -> None:
        """The first line: what the records below were made with."""
        self._lines.append(_dump({"header": {"schema_version": SCHEMA_VERSION, **header}}))
        self.flush()

    def add(self, record: Record) -> None:
        """Keep a record; it reaches the file within a second of the next one, or at `flush`."""
        self._lines.append(_dump(record.to_json()))
        if self._clock() - self._written_s >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        if self._lines:
            self._file.write("\n".join(self._lines) + "\n")
            self._file.flush()
            self._lines.clear()
        self._written_s = self._clock()

    def close(self) -> None:
        """Write what is kept and close the file; safe to call twice."""
        if not self._file.closed:
            self.flush()
            self._file.close()


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


class Reader:
    """Reads a folder's records while they are written: each `read` takes what came since the one before.

    A line that is still being written is left for the next time.
    """

    def __init__(self, folder: Path) -> None:
        self.headers: list[dict[str, Any]] = []
        self.records: list[Record] = []  # in order of sending after each `read`
        self._folder = folder
        self._offsets: dict[Path, int] = {}

    def read(self) -> None:
        """Take in every line that is whole by now."""
        for path in sorted(self._folder.glob("requests.*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                for line in file:
                    if line.endswith(b"\n"):
                        self._offsets[path] = self._offsets.get(path, 0) + len(line)
                        self._take(json.loads(line))
        self.records.sort(key=lambda record: record.t_send)

    def _take(self, value: dict[str, Any]) -> None:
        if "header" in value:
            self.headers.append(value["header"])
        else:
            self.records.append(Record.from_json(value))


def read_requests(folder: Path) -> tuple[list[dict[str, Any]], list[Record]]:
    """Headers and whole records of all workers of a run, records in order of sending."""
    reader = Reader(folder)
    reader.read()
    return reader.headers, reader.records

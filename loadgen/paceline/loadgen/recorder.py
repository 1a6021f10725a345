"""Writes what happened to every generation: one compact JSON line each, one file per worker process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
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


def read_requests(folder: Path) -> tuple[list[dict[str, Any]], list[Record]]:
    """Headers and records of all workers of a run, records in order of sending."""
    headers: list[dict[str, Any]] = []
    records: list[Record] = []
    for path in sorted(folder.glob("requests.*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            found = read_lines(lines)
        headers += found[0]
        records += found[1]
    return headers, sorted(records, key=lambda record: record.t_send)


def read_lines(lines: Iterable[str]) -> tuple[list[dict[str, Any]], list[Record]]:
    """Headers and records among these lines."""
    headers: list[dict[str, Any]] = []
    records: list[Record] = []
    for line in lines:
        value = json.loads(line)
        if "header" in value:
            headers.append(value["header"])
        else:
            records.append(Record.from_json(value))
    return headers, records

"""A finished run as the comparison reads it: its summary, and the raw requests of every level."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from paceline.loadgen.statistics import latency_records, target_of
from paceline.loadgen.timing import Record, without_probes
from paceline.loadgen.window import Window, open_window, steady_window

UNUSABLE = {"empty", "warmup_only"}


class RunUnreadable(Exception):
    """There is no run there, or not all of it; the text is one line."""


class LevelKey(NamedTuple):
    """What two runs' levels are matched by."""

    mode: str
    kind: str  # "concurrency" or "rate"
    value: float

    @property
    def label(self) -> str:
        """`16 in flight` or `4/s`."""
        return f"{self.value:g}{' in flight' if self.kind == 'concurrency' else '/s'}"


@dataclass(frozen=True, slots=True)
class Part:
    """One measurement of a level: all its records, its window, and those behind its latencies."""

    records: tuple[Record, ...]
    window: Window
    chosen: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run's summary, and for each level as many parts as it was measured times."""

    name: str
    summary: Mapping[str, Any]
    parts: Mapping[LevelKey, tuple[Part, ...]]


def load_run(path: Path) -> ComparedRun:
    """Reads a run's folder, or its summary.json with the requests beside it.

    Raises:
        RunUnreadable: no such files, another program's files, or requests that do not parse.
    """
    folder = path.parent if path.name == "summary.json" else path
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        with gzip.open(folder / "requests.jsonl.gz", "rt", encoding="utf-8") as lines:
            records = [Record.from_json(json.loads(line)) for line in lines]
        name = str(summary["run"]["id"])
    except FileNotFoundError as error:
        raise RunUnreadable(f"{path}: no {Path(str(error.filename)).name} there") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise RunUnreadable(f"{path} is no run of paceline bench: {error}") from error
    return ComparedRun(name, summary, parts_of(records))


def parts_of(records: Iterable[Record]) -> dict[LevelKey, tuple[Part, ...]]:
    """Each level's parts: one that was run again, in a repeat or after another one, has several."""
    found: dict[LevelKey, tuple[Part, ...]] = {}
    ordered = sorted(without_probes(records), key=lambda record: (record.mode, record.t_send))
    for (key, _), group in groupby(ordered, key=lambda record: (_key(record), record.repeat)):
        part = _part(key, tuple(group))
        if part is not None:
            found[key] = (*found.get(key, ()), part)
    return found


def _key(record: Record) -> LevelKey:
    kind = "concurrency" if record.rate is None else "rate"
    return LevelKey(record.mode, kind, target_of(record))


def _part(key: LevelKey, records: tuple[Record, ...]) -> Part | None:
    if key.kind == "rate":
        verdict, window, _ = open_window(records)
    else:
        verdict, window, _ = steady_window(records, int(key.value))
    if window is None or verdict in UNUSABLE:
        return None
    return Part(records, window, tuple(latency_records(records, window)))

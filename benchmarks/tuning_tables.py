"""Writes the table of docs/tuning.md from benchmarks/results/tuning.json.

python benchmarks/tuning_tables.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tables import updated

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tuning.md"
RESULTS = ROOT / "benchmarks" / "results" / "tuning.json"
MARKS = ("<!-- overload: begin -->", "<!-- overload: end -->")


def overload(rows: list[dict[str, Any]]) -> str:
    """What came of many requests at once, with a bound on their wait and without."""
    return "\n".join(["", *_lines(rows), ""])


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| `max_queue_wait_s` | answered | first token: median, longest | refused | after | told to come back in |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in rows:
        bound = row["max_queue_wait_s"]
        cells = [
            "unset" if bound is None else f"{bound:g}",
            f"{row['answered']}",
            f"{row['ttft_ms_p50'] / 1e3:.1f} s, {row['ttft_ms_max'] / 1e3:.1f} s",
            f"{row['refused']}",
            f"{row['refused_after_ms']:.0f} ms" if row["refused"] else "–",
            f"{row['retry_after_s']:.1f} s" if row["refused"] else "–",
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    text = overload(json.loads(RESULTS.read_text())["burst"])
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8"), text, MARKS), encoding="utf-8")


if __name__ == "__main__":
    main()

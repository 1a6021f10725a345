"""The folder of one run: what lies in it, and how the last one is found."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paceline.loadgen.report_markdown import markdown_report
from paceline.loadgen.report_page import report_page
from paceline.loadgen.tables import levels_table
from paceline.loadgen.workload import NONCES

COUNTS = ("sent", "ok", "shed", "failed", "missed_deadline", "cancelled_by_plan", "cut")
SCHEMA = Path(__file__).parent / "summary.schema.json"


class RunFolder:
    """`<out>/<run id>/`, made at once; `latest` beside it points to the newest run with a report."""

    def __init__(self, out: Path, name: str, now: datetime | None = None) -> None:
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
        self.id = f"{stamp}-{name}"
        self.path = _new_folder(out, self.id)
        self.id = self.path.name
        self.raw.mkdir()

    @property
    def nonce(self) -> int:
        """A number that the prompts of this run share with no other run's."""
        return int(hashlib.sha256(self.id.encode()).hexdigest(), 16) % NONCES

    @property
    def raw(self) -> Path:
        """Logs and what the children wrote; kept, for questions the report does not answer."""
        return self.path / "raw"

    @property
    def series(self) -> Path:
        return self.path / "server_metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def write_requests(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Every generation of every mode, one JSON line each."""
        with gzip.open(self.path / "requests.jsonl.gz", "wt", encoding="utf-8") as out:
            out.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)

    def write_report(self, summary: Mapping[str, Any]) -> None:
        """Everything that is made of the summary, the summary itself first."""
        text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
        (self.path / "summary.json").write_text(text + "\n", encoding="utf-8")
        self._write_json("env.json", summary["environment"])
        write_levels(self.path / "levels.csv", summary)
        (self.path / "report.md").write_text(markdown_report(summary), encoding="utf-8")
        self.report.write_text(report_page(summary), encoding="utf-8")
        from paceline.loadgen.figures import write_figures  # Matplotlib takes a second to import

        write_figures(self.path, summary)
        self._point_latest()

    def _write_json(self, name: str, value: Any) -> None:
        (self.path / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    def _point_latest(self) -> None:
        """Replaced in one move, so that `latest` never dangles. Left alone where it is no link."""
        link, new = self.path.parent / "latest", self.path.parent / f".latest.{os.getpid()}"
        if link.exists() and not link.is_symlink():
            return
        new.unlink(missing_ok=True)
        new.symlink_to(self.path.name)
        new.replace(link)

    def discard(self) -> None:
        """Remove the folder of a run in which nothing was measured."""
        shutil.rmtree(self.path)


def _new_folder(out: Path, name: str) -> Path:
    for suffix in ("", *(f"-{n}" for n in range(2, 100))):
        path = out / f"{name}{suffix}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not out.is_dir():
                raise
            continue
        return path
    raise FileExistsError(f"{out / name} and 98 more exist")


def write_levels(path: Path, summary: Mapping[str, Any]) -> None:
    """One line per mode and level, raw numbers, units in the names."""
    rows = [_level_row(level) for level in summary["levels"]]
    # A run that ended early may have repeats of some levels alone.
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = names or [*levels_table(summary).headings]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, names)
        writer.writeheader()
        writer.writerows(rows)


def _level_row(level: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"mode": level["mode"], level["target"]["kind"]: level["target"]["value"]}
    row["achieved_concurrency"] = level["achieved"]["concurrency"]
    repeats = level["repeats"]
    row["repeats"] = repeats["n"] if repeats else 1
    for name, one in (repeats["figures"] if repeats else {}).items():
        row |= {f"repeats_{name}_{part}": one[part] for part in ("median", "cv", "noise_floor")}
    row["steady"] = level["stable"]["verdict"] == "steady"
    row |= {name: level["counts"][name] for name in COUNTS}
    rates = level["throughput"] or {}
    row |= {name: rates.get(name) for name in ("output_tok_s", "input_tok_s", "req_s", "window_s")}
    for metric in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        for name in ("n", "mean", "median", "p90", "p95", "p99", "max"):
            row[f"{metric}_{name}"] = level["latency"][metric][name]
    for metric in ("ttft_sched_ms", "e2e_sched_ms"):
        row |= {f"{metric}_{name}": level["latency"][metric][name] for name in ("median", "p99")}
    for one in level["goodput"]:
        row |= {f"{one['slo']} {name}": one[name] for name in ("attainment", "req_s", "tok_s")}
    row["lower_bounds"] = " ".join(level["lower_bounds"])
    for name in ("batch_mean", "padding_waste", "kv_pages_peak", "preemptions", "busy_share"):
        row[name] = level["server"].get(name)
    row |= {name: level["client"][name] for name in ("dropped", "late", "dispatch_degraded")}
    return row | {"client_cpu_pct": level["client"]["cpu_pct"]}

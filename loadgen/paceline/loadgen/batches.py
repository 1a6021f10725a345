"""Every system, modes and baselines alike, along batch size, concurrency or rate: lines and their table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.loadgen.bounds import at_least, is_bound
from paceline.loadgen.systems import SYSTEMS, system
from paceline.loadgen.tables import Row, Table
from paceline.loadgen.units import by_rate, is_open, size
from paceline.loadgen.verdicts import levels_of, tokens_per_second
from paceline.loadgen.wording import NONE, milliseconds, percent, rate, ratio, seconds

Summary = Mapping[str, Any]


def batch_table(summary: Summary) -> Table:
    """Every system by batch size or concurrency: total time, throughput, latency per request, speedup."""
    base = one_by_one(summary)
    rows = []
    for entry in sorted(SYSTEMS, key=lambda one: one.is_mode):
        for at, line in enumerate(batch_lines(summary, entry.key)):
            value = line["output_tok_s"]
            cells = (
                entry.label,
                line["label"],
                seconds(line["total_time_s"]),
                rate(value),
                at_least(milliseconds(line["latency_ms"]), line["bound"]),
                ratio(value / base) if value and base else NONE,
                percent(line["padding_waste"]),
            )
            rows.append(Row(entry.key, cells, at == 0))
    headings = (
        "System",
        "Rate" if is_open(summary) else "Batch size / in flight",
        "Total time",
        "Output tok/s",
    )
    return Table((*headings, "Mean latency", "Speedup", "Padding"), tuple(rows))


def batch_lines(summary: Summary, key: str) -> list[dict[str, Any]]:
    """One system along batch size (a baseline) or concurrency (a mode), on the same fields."""
    if system(key).is_mode:
        return [
            {
                "size": level["target"]["value"],
                "label": size(level),
                "unit": " requests a second" if by_rate(level) else " at once",
                "total_time_s": level["total_time_s"],
                "output_tok_s": tokens_per_second(level),
                "latency_ms": level["latency"]["e2e_ms"]["mean"],
                "bound": is_bound(level, "e2e_ms"),
                "padding_waste": level["server"].get("padding_waste"),
            }
            for level in levels_of(summary, key)
        ]
    return [
        {
            "size": point["batch_size"],
            "label": str(point["batch_size"]),
            "unit": " at once",
            "total_time_s": point["total_time_s"],
            "output_tok_s": point["output_tok_s"],
            "latency_ms": point["latency_ms"]["mean"],
            "bound": False,
            "padding_waste": point["padding_waste"],
        }
        for point in summary["baselines"]
        if point["system"] == key
    ]


def one_by_one(summary: Summary) -> float | None:
    """What speedups are counted from: transformers one by one, else our sequential mode at its lowest level."""
    lines = batch_lines(summary, "transformers") or batch_lines(summary, "sequential")
    value: float | None = lines[0]["output_tok_s"] if lines else None
    return value

"""`report.md`: the verdict and the main tables, for a terminal, a pull request or a wiki. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.loadgen.batches import batch_table
from paceline.loadgen.concerns import concerns
from paceline.loadgen.kind_table import kinds_table
from paceline.loadgen.repeat_table import repeats_table
from paceline.loadgen.tables import levels_table, short_table, where_table
from paceline.loadgen.tables_of_measures import (
    fairness_table,
    goodput_table,
    health_table,
    speed_table,
)

Summary = Mapping[str, Any]


def markdown_report(summary: Summary) -> str:
    """The report as Markdown."""
    verdict, run = summary["verdicts"], summary["run"]
    parts = [f"# Paceline bench {run['id']}", f"**{verdict['headline']}** {verdict['explanation']}"]
    parts.append("\n".join(f"- {flag['text']}" for flag in verdict["flags"]))
    parts += ["## Modes", short_table(summary).markdown()]
    if (repeats := repeats_table(summary)).rows:
        parts += ["## Over all repeats", repeats.markdown()]
    if summary["baselines"] or run.get("workload") == "notebook":
        parts += [
            "## By batch size, with the transformers baselines",
            batch_table(summary).markdown(),
        ]
    parts += ["## In practice", *(f"**{one.title}** {one.answer}" for one in concerns(summary))]
    parts += ["## Goodput", goodput_table(summary).markdown()]
    if (fairness := fairness_table(summary)).rows:
        parts += ["## Fairness", fairness.markdown()]
    if (kinds := kinds_table(summary)).rows:
        parts += ["## By kind of request", kinds.markdown()]
    parts += ["## What one reader sees", speed_table(summary).markdown()]
    parts += ["## Where time goes", where_table(summary).markdown()]
    parts += ["## The load generator's health", health_table(summary).markdown()]
    parts += ["## All figures per level", levels_table(summary).markdown()]
    parts += ["## How it was run", f"```\n{run['command']}\n```", _facts(summary)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(summary: Summary) -> str:
    facts = summary["fingerprint"] | summary["environment"]
    lines = [
        f"- {name}: {value}"
        for name, value in facts.items()
        if isinstance(value, str | int | float)
    ]
    return "\n".join(lines)

"""`compare.html`: the comparison as one page in the report's style, without network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from paceline.loadgen.compare_tables import (
    change,
    comparison_table,
    figure,
    headline,
    interval,
    notes,
)
from paceline.loadgen.report_page import embedded, page_environment, template
from paceline.loadgen.systems import system

Comparison = Mapping[str, Any]


def compare_page(found: Comparison) -> str:
    """The whole page as HTML text."""
    return (
        page_environment()
        .get_template("compare.html")
        .render(
            found=found,
            headline=headline(found),
            notes=notes(found),
            table=comparison_table(found),
            data=Markup(embedded(forest(found))),
            styles=Markup(template("report.css")),
            scripts=Markup(template("charts.js") + template("compare.js")),
        )
    )


def forest(found: Comparison) -> list[dict[str, Any]]:
    """The intervals as the page draws them: one group per level, differences in per cent."""
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for row in found["rows"]:
        if row["change"] is None:
            continue
        title = f"{system(row['mode']).label}, {row['label']}"
        group = groups.setdefault((row["mode"], row["value"]), {"title": title, "rows": []})
        verdict = "" if found["differing"] else row["verdict"]
        tip = f"{figure(row, 'base')} → {figure(row, 'new')}\n{interval(row)}\n{verdict}".strip()
        group["rows"].append(
            {"label": row["name"], "change": row["change"], "text": change(row["change"])}
            | {"low": row["change_ci95"][0], "high": row["change_ci95"][1]}
            | {"floor": row["noise_floor"] or 0.0, "verdict": verdict, "tip": tip}
        )
    return list(groups.values())

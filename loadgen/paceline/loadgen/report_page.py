"""`report.html`: one page made of a summary, with its styles, scripts and data inside. No network. Pure but for
reading the templates of this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from paceline.loadgen import open_words, tables, tables_of_measures
from paceline.loadgen.batches import batch_table
from paceline.loadgen.charts import charts
from paceline.loadgen.concerns import concerns
from paceline.loadgen.definitions import DEFINITIONS, SYMBOLS
from paceline.loadgen.kind_table import kinds_table
from paceline.loadgen.repeat_table import repeats_table
from paceline.loadgen.systems import SYSTEMS, system
from paceline.loadgen.units import at_words, is_open, level_word, unit
from paceline.loadgen.verdicts import levels_of, modes_of
from paceline.loadgen.wording import percent, rate, ratio

Summary = Mapping[str, Any]


def report_page(summary: Summary) -> str:
    """The whole page as HTML text."""
    drawn = charts(summary)
    page = (
        page_environment()
        .get_template("report.html")
        .render(
            summary=summary,
            run=summary["run"],
            verdict=summary["verdicts"],
            cards=cards(summary),
            charts=drawn,
            charts_json=Markup(embedded(drawn)),
            tables=_tables(summary),
            concerns=concerns(summary),
            rungs=[one for one in SYSTEMS if one.is_mode],
            at_reference=at_reference(summary),
            unit=unit(summary),
            level_word=level_word(summary),
            open_loop=is_open(summary),
            sampled=sampled(summary),
            padding_story=padding_story(summary),
            definitions=DEFINITIONS,
            symbols=SYMBOLS,
            facts=facts(summary),
            styles=Markup(template("report.css")),
            scripts=Markup(template("charts.js") + template("measures.js") + template("report.js")),
        )
    )
    return page


def page_environment() -> jinja2.Environment:
    """How this package's pages are made: what comes from outside stays text, a missing name is an error."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def template(name: str) -> str:
    """A template's text."""
    return (files("paceline.loadgen") / "templates" / name).read_text(encoding="utf-8")


def embedded(value: Any) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _tables(summary: Summary) -> dict[str, tables.Table]:
    return {
        "levels": tables.levels_table(summary),
        "short": tables.short_table(summary),
        "batch": batch_table(summary),
        "padding": tables.padding_table(summary),
        "where": tables.where_table(summary),
        "latency": tables.latency_table(summary),
        "kinds": kinds_table(summary),
        "repeats": repeats_table(summary),
        "phases": tables.phases_table(summary),
        "goodput": tables_of_measures.goodput_table(summary),
        "fairness": tables_of_measures.fairness_table(summary),
        "health": tables_of_measures.health_table(summary),
        "fairness_here": tables_of_measures.at_reference(
            tables_of_measures.fairness_table(summary), summary
        ),
        "spread_here": tables_of_measures.at_reference(tables.latency_table(summary), summary),
        "timeline": tables_of_measures.timeline_table(summary),
        "speed": tables_of_measures.speed_table(summary),
        "fit": tables_of_measures.fit_table(summary),
    }


def cards(summary: Summary) -> list[dict[str, str]]:
    """The headline figures: the ratios at the reference concurrency, the best against transformers, the peak."""
    verdict = summary["verdicts"]
    reference = verdict["reference_concurrency"]
    made = [
        {
            "key": mode,
            "figure": ratio(value),
            "what": f"the throughput of {system(mode).label.lower()}, at {at_words(summary, reference)}",
        }
        for mode, value in verdict["ratios"].items()
    ]
    for name, one in verdict["baseline_ratios"].items():
        size = f" (best: {one['batch_size']})" if one["batch_size"] > 1 else ""
        what = f"the throughput of {system(name).label}{size}, peak to peak"
        made.append({"key": name, "figure": ratio(one["ratio"]), "what": what})
    if is_open(summary) and (hero := verdict["hero"]):
        told = open_words.cards(summary, hero, levels_of(summary, hero))
        made += [{"key": hero, "figure": figure, "what": what} for figure, what in told]
    if peak := verdict["peak"]:
        what = f"tokens/s at the peak: {system(peak['mode']).label.lower()}, {at_words(summary, peak['concurrency'])}"
        made.append({"key": peak["mode"], "figure": rate(peak["output_tok_s"]), "what": what})
    return made


def at_reference(summary: Summary) -> str:
    """Where figures of single requests are taken, for their titles."""
    size = summary["verdicts"]["reference_concurrency"]
    return f", at {at_words(summary, size)}" if size else ""


def sampled(summary: Summary) -> str:
    """Says how many requests the page holds, where it does not hold all."""
    thinned = [one["detail"]["every"] for one in summary["levels"] if one["detail"]["every"] > 1]
    if not thinned:
        return "All requests of the steady windows are shown."
    return f"Of levels with many requests the page holds evenly spaced ones, down to one in {max(thinned)}."


def padding_story(summary: Summary) -> str:
    """Why padding differs between the modes, told with this run's figures."""
    table: dict[str, Mapping[str, Any]] = {
        mode: next((s["whole_run"] for s in summary["systems"] if s["mode"] == mode), {})
        for mode in modes_of(summary)
    }
    static, ours = table.get("static") or {}, table.get("continuous") or {}
    text = (
        "Every model call is a rectangle of rows and tokens; what no request fills is computed all the same."
        " Static batching keeps a row until the longest answer of its batch is done, and pads every prompt to the"
        " longest one. Dynamic batching lets finished rows leave, but refills none. Continuous batching refills at"
        " every step, so only the last few rows up to the next bucket size stay empty."
    )
    if static.get("padding_waste") is not None and ours.get("padding_waste") is not None:
        text += (
            f" Over this whole run, of 100 tokens computed {percent(static['padding_waste'])[:-2]} were padding with"
            f" static and {percent(ours['padding_waste'])[:-2]} with continuous batching."
        )
    return text


def facts(summary: Summary) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titles and (name, value) lists: what ran, on what, with which settings."""
    groups = [
        ("What was compared", summary["fingerprint"]),
        ("Settings of the bench", summary["config"]),
    ]
    groups += [("Lengths of drawn requests", summary["run"].get("lengths") or {})]
    groups += [("Machine and versions", summary["environment"]), ("Work", summary["work"])]
    shown = [(title, _flat(values)) for title, values in groups]
    for one in summary["systems"]:
        flat = _flat(
            one["server"] | {"command": " ".join(one["command"]), "startup_s": one["startup_s"]}
        )
        shown.append((f"Server, {system(one['mode']).label.lower()}, as it reports itself", flat))
    return [(title, pairs) for title, pairs in shown if pairs]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name} ")
        elif value not in (None, "", []):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            pairs.append((f"{prefix}{name}".replace("_", " "), text))
    return pairs

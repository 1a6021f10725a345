"""The pictures of the tuning guide, from what `tuning.py` found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Theme = dict[str, str]


def size(found: Any, theme: Theme) -> Figure:
    """Tokens a second and time per token against --max-batch-size."""
    rows = found["size"]
    names = [str(row["max_batch_size"]) for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6))
    _bars(left, names, [row["output_tok_s"] for row in rows], theme, "continuous", "{:.0f}")
    # Of one row with 31 waiting few requests end within the window: its pace is the rate's.
    paces = [1e3 * row["rows_mean"] / row["output_tok_s"] for row in rows]
    _bars(right, names, paces, theme, "static", "{:.0f}")
    left.set_title("output tokens a second", loc="left")
    right.set_title("a step, so a token of each stream (ms)", loc="left")
    for axis in (left, right):
        axis.set_xlabel("--max-batch-size")
    return figure


def lengths(found: Any, theme: Theme) -> Figure:
    """Seconds for the same number of tokens, of equal and of mixed lengths."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.6))
    for axis, key, title, form, factor in (
        (axes[0], "seconds", "32 requests, 768 tokens: seconds", "{:.1f}", 1.0),
        (axes[1], "padding_waste", "computed tokens that were padding", "{:.0f} %", 100.0),
    ):
        for number, answers in enumerate(("equal", "mixed")):
            rows = [row for row in found["lengths"] if row["answers"] == answers]
            places = [place + 0.4 * number - 0.2 for place in range(len(rows))]
            values = [row[key] * factor for row in rows]
            colors = [theme[row["mode"]] for row in rows]
            bars = axis.bar(places, values, 0.36, color=colors, alpha=0.55 if number == 0 else 1.0)
            labels = [f"{answers}\n{form.format(value)}" for value in values]
            axis.bar_label(bars, labels, padding=2, color=theme["ink"], fontsize=8.5)
        axis.set_xticks(range(len(rows)), [row["mode"] for row in rows])
        axis.set_title(title, loc="left", pad=22)
        _bare(axis)
    return figure


def latency(found: Any, theme: Theme) -> Figure:
    """What a lone request waits, and what long prompts do to streams."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 2.6))
    waits, budgets = found["wait"], found["budget"]
    names = [str(row["max_wait_ms"]) for row in waits]
    _bars(left, names, [row["ttft_ms_p50"] for row in waits], theme, "static", "{:.0f}")
    left.set_title("a lone request: TTFT (ms)", loc="left")
    left.set_xlabel("static, --max-wait-ms")
    names = [str(row["max_step_tokens"]) for row in budgets]
    gaps = [row["streams_longest_gap_ms"] for row in budgets]
    firsts = [row["prompts_ttft_ms"] for row in budgets]
    _bars(middle, names, gaps, theme, "continuous", "{:.0f}")
    _bars(right, names, firsts, theme, "continuous", "{:.0f}")
    middle.set_title("streams: longest gap (ms)", loc="left")
    right.set_title("512-token prompt: TTFT (ms)", loc="left")
    for axis in (middle, right):
        axis.set_xlabel("continuous, --max-step-tokens")
    return figure


def memory(bench: Any, theme: Theme) -> Figure:
    """Pages in use by requests in flight, of the run that the bench keeps."""
    levels = _continuous(bench)
    names = [str(level["target"]["value"]) for level in levels]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6))
    pages = [level["server"]["kv_pages_peak"] for level in levels]
    shares = [100 * each / levels[0]["server"]["kv_pages_total"] for each in pages]
    _bars(left, names, pages, theme, "continuous", "{:.0f}")
    _bars(right, names, shares, theme, "dynamic", "{:.0f} %")
    left.set_title("most pages of 16 tokens in use", loc="left")
    right.set_title("of those that were free at the start", loc="left")
    for axis in (left, right):
        axis.set_xlabel("requests in flight")
    return figure


def load(bench: Any, theme: Theme) -> Figure:
    """One server under growing load, of the run that the bench keeps."""
    levels = _continuous(bench)
    names = [str(level["target"]["value"]) for level in levels]
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
    panels: tuple[tuple[str, Callable[[Any], float], str], ...] = (
        ("rows in a step", lambda one: one["server"]["batch_mean"], "{:.1f}"),
        ("output tokens a second", lambda one: one["throughput"]["output_tok_s"], "{:.0f}"),
        (
            "first token after, median (ms)",
            lambda one: one["latency"]["ttft_ms"]["median"],
            "{:.0f}",
        ),
    )
    for axis, (title, value, form) in zip(axes, panels, strict=True):
        _bars(axis, names, [value(level) for level in levels], theme, "continuous", form)
        axis.set_title(title, loc="left")
        axis.set_xlabel("requests in flight")
    return figure


def _continuous(bench: Any) -> list[Any]:
    return [level for level in bench["levels"] if level["mode"] == "continuous"]


def _bars(
    axis: Axes, names: Sequence[str], values: Sequence[float], theme: Theme, color: str, form: str
) -> None:
    bars = axis.bar(names, values, color=theme[color], width=0.62)
    labels = [form.format(value) for value in values]
    axis.bar_label(bars, labels, padding=2, color=theme["ink"], fontsize=9)
    _bare(axis)


def _bare(axis: Axes) -> None:
    axis.margins(y=0.12)
    axis.yaxis.set_visible(False)
    axis.spines["left"].set_visible(False)


BENCH, TUNED = "bench/summary.json", "tuning.json"
TUNING: dict[str, tuple[str, Callable[[Any, Theme], Figure]]] = {
    "tuning-size": (TUNED, size),
    "tuning-lengths": (TUNED, lengths),
    "tuning-latency": (TUNED, latency),
    "tuning-memory": (BENCH, memory),
    "tuning-load": (BENCH, load),
}

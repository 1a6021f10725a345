"""Draws the pictures of the documentation from the committed results, in a light and a dark variant.

python benchmarks/pictures.py [--out docs/img]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from cells import cases_of, unit_of
from tuning_pictures import TUNING

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MODES = ("sequential", "static", "dynamic", "continuous")
# Those of the report, whose pages are light or dark in the same way.
THEMES: dict[str, dict[str, str]] = {
    "light": {
        "sequential": "#687485",
        "static": "#d56c06",
        "dynamic": "#b0419a",
        "continuous": "#0b62d6",
        "other": "#0a8464",
        "ink": "#16202c",
        "soft": "#56616f",
        "grid": "#e2e6eb",
    },
    "dark": {
        "sequential": "#9aa6b5",
        "static": "#ff9d42",
        "dynamic": "#e48fd0",
        "continuous": "#5aa9ff",
        "other": "#39cfa0",
        "ink": "#e8ecf1",
        "soft": "#a9b3c0",
        "grid": "#333d49",
    },
}
Theme = dict[str, str]


def modes(bench: Any, theme: Theme) -> Figure:
    """Throughput, padding and TTFT of the four modes at the most requests in flight."""
    size = bench["verdicts"]["reference_concurrency"]
    at = {one["mode"]: one for one in bench["levels"] if one["target"]["value"] == size}
    panels: tuple[tuple[str, Callable[[Any], float], str], ...] = (
        ("output tokens a second", lambda one: one["throughput"]["output_tok_s"], "{:.0f}"),
        ("computed tokens that were padding", _waste, "{:.0f} %"),
        ("first token after, median (s)", _ttft_s, "{:.2g}"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.5), sharey=True)
    for axis, (title, value, form) in zip(axes, panels, strict=True):
        values = [value(at[mode]) for mode in MODES]
        bars = axis.barh(MODES, values, color=[theme[mode] for mode in MODES], height=0.62)
        bounds = [
            title.startswith("first") and "ttft_ms" in at[mode]["lower_bounds"] for mode in MODES
        ]
        labels = [
            ("≥ " if bound else "") + form.format(v)
            for v, bound in zip(values, bounds, strict=True)
        ]
        axis.bar_label(bars, labels, padding=4, color=theme["ink"], fontsize=9)
        axis.set_title(title, loc="left")
        axis.set_xlim(0, max(values) * 1.25)
        axis.xaxis.set_visible(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(left=False)
    axes[0].invert_yaxis()
    return figure


def _waste(level: Any) -> float:
    return float(level["server"]["padding_waste"] * 100)


def _ttft_s(level: Any) -> float:
    return float(level["latency"]["ttft_ms"]["median"] / 1e3)


def lanes(bench: Any, theme: Theme) -> Figure:
    """Which requests held the server's rows over ten seconds, with eight in flight."""
    figure, axes = plt.subplots(4, 1, figsize=(9, 5.6), sharex=True)
    for axis, mode in zip(axes, MODES, strict=True):
        lane = bench["lanes"][mode]
        for row, spans in enumerate(lane["rows"]):
            axis.broken_barh(
                [(start, end - start - 0.015) for start, end, _ in spans],
                (row + 0.12, 0.76),
                color=theme[mode],
            )
        axis.set_title(f"{mode}: rows in use {lane['filled']:.0%} of the time", loc="left")
        axis.set_ylim(len(lane["rows"]), 0)
        axis.set_yticks([])
        axis.set_xlim(0, min(bench["lanes"][each]["seconds"] for each in MODES))
        axis.spines["left"].set_visible(False)
    axes[-1].set_xlabel("seconds")
    return figure


def curves(bench: Any, theme: Theme) -> Figure:
    """Throughput and TTFT against requests in flight."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for mode in MODES:
        own = [one for one in bench["levels"] if one["mode"] == mode]
        sizes = [one["target"]["value"] for one in own]
        style = {"color": theme[mode], "marker": "o", "markersize": 4, "label": mode}
        left.plot(sizes, [one["throughput"]["output_tok_s"] for one in own], **style)
        right.plot(sizes, [one["latency"]["ttft_ms"]["median"] for one in own], **style)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_xlabel("requests in flight")
        axis.grid(axis="y")
    left.set_title("output tokens a second", loc="left")
    right.set_title("first token after, median (ms)", loc="left")
    right.set_yscale("log")
    left.legend(frameon=False, labelcolor=theme["ink"])
    return figure


def gpu_steps(gpu: Any, theme: Theme) -> Figure:
    """How the time of a decode step, and tokens a second, grow with rows on a GPU."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for shape, color in (("llama-8b", "continuous"), ("smollm2-135m", "static")):
        cases = [c for c in cases_of(gpu, f"growth/{shape}") if c["context_mean"] < 200]
        rows = [case["rows"] for case in cases]
        times = [case["step_ms_median"] for case in cases]
        style = {"color": theme[color], "marker": "o", "markersize": 4, "label": shape}
        left.plot(rows, times, **style)
        rates = [1e3 * n / ms for n, ms in zip(rows, times, strict=True)]
        right.plot(rows, rates, **style)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(rows, [str(row) for row in rows])
        axis.set_xlabel("rows in the step")
        axis.grid(axis="y")
    left.set_ylim(0)
    left.set_title("a decode step, median (ms)", loc="left")
    right.set_title("tokens a second", loc="left")
    right.set_yscale("log")
    left.legend(frameon=False, labelcolor=theme["ink"])
    return figure


def gpu_ladder(gpu: Any, theme: Theme) -> Figure:
    """What each part adds on a GPU, from transformers' generate() to gRPC streams."""
    rungs = list(_gpu_rungs(gpu))
    names = [name for name, _, _ in rungs]
    values = [value for _, value, _ in rungs]
    figure, axis = plt.subplots(figsize=(9, 4.2))
    bars = axis.barh(names, values, color=[theme[color] for _, _, color in rungs], height=0.68)
    axis.bar_label(
        bars, [f"{value:,.0f}" for value in values], padding=4, color=theme["ink"], fontsize=9
    )
    axis.set_xscale("log")
    axis.set_xlim(8, max(values) * 4)
    axis.invert_yaxis()
    axis.set_title("output tokens a second (logarithmic)", loc="left")
    axis.xaxis.set_visible(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(left=False)
    return figure


def _gpu_rungs(gpu: Any) -> Any:
    """Name, tokens a second, color."""
    for line in unit_of(gpu, "ladder/transformers")["systems"]:  # type: ignore[index]  # it is there
        size = line["batch_size"]
        name = "generate(), one by one" if size == 1 else f"generate(), padded batches of {size}"
        yield name, line["output_tokens_per_s"], "other"
    cases = {case["mode"]: case for case in cases_of(gpu, "ladder/modes")}
    for mode in MODES:
        yield f"{mode}, eager", cases[mode]["output_tokens_per_s"], mode
    for unit, name in (
        ("graphs", "+ CUDA graphs"),
        ("compile", "+ compiled layers"),
        ("fused-layers", "+ fused layers instead"),
        ("launch-ahead", "+ launch-ahead"),
        ("served", "+ served over gRPC"),
    ):
        found = unit_of(gpu, f"ladder/{unit}")
        if found is not None:  # a run whose time was up leaves the last ones out
            yield name, found["output_tokens_per_s"], "continuous"


PICTURES: dict[str, tuple[str, Callable[[Any, Theme], Figure]]] = {
    "modes": ("bench/summary.json", modes),
    "lanes": ("bench/summary.json", lanes),
    "curves": ("bench/summary.json", curves),
    "gpu-steps": ("gpu.json", gpu_steps),
    "gpu-ladder": ("gpu.json", gpu_ladder),
} | TUNING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img")
    folder = parser.parse_args().out
    for variant, theme in THEMES.items():
        with matplotlib.rc_context(_style(theme)):
            for name, (source, draw) in PICTURES.items():
                figure = draw(json.loads((RESULTS / source).read_text()), theme)
                figure.tight_layout()
                file = folder / f"{name}-{variant}.svg"
                figure.savefig(file, transparent=True, metadata={"Date": None})
                plt.close(figure)


def _style(theme: Theme) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",  # text stays text, in the reader's own font
        "svg.hashsalt": "paceline",  # the same figures make the same bytes
        "font.family": "sans-serif",
        "font.size": 9.5,
        "text.color": theme["ink"],
        "axes.labelcolor": theme["soft"],
        "axes.edgecolor": theme["grid"],
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": theme["grid"],
        "xtick.color": theme["soft"],
        "ytick.color": theme["ink"],
        "lines.linewidth": 2,
    }


if __name__ == "__main__":
    main()

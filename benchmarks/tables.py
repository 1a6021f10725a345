"""The tables of docs/performance.md, made from the runs in benchmarks/results.

    python benchmarks/tables.py benchmarks/results/gpu.json
    python benchmarks/tables.py benchmarks/results/gpu.json --update docs/performance.md

Prints Markdown, of several files one after the other. `--update` puts it between the page's two marks, so that no
figure there is typed by hand. Columns of a peer that was measured on an H100 are left out of tables of other GPUs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cells import Result, last_line, narrowed
from step_tables import growth, profile, steps
from throughput_tables import deterministic, fp8, ladder, offline, several, streams

REFERENCE = Path(__file__).parent / "results" / "reference_h100.json"
MARKS = ("<!-- gpu tables: begin -->", "<!-- gpu tables: end -->")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--update", type=Path, metavar="PAGE")
    arguments = parser.parse_args(argv)
    text = "\n\n".join(tables(json.loads(file.read_text())) for file in arguments.results)
    if arguments.update is None:
        print(text)  # noqa: T201
    else:
        arguments.update.write_text(updated(arguments.update.read_text(), text))


def updated(page: str, text: str, marks: tuple[str, str] = MARKS) -> str:
    """The page with `text` between its marks. ValueError where it has none."""
    begin, end = marks
    before, found, rest = page.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"the page has no {begin} … {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def tables(results: Result) -> str:
    """Everything that was measured, as Markdown; what was not is left out."""
    reference = json.loads(REFERENCE.read_text())
    compared = "H100" in (results["environment"]["gpu"] or "")
    if not compared:
        reference |= {"offline_tok_s": {}, "step_ms": {}, "streams": {}}
    texts = (
        "\n".join(narrowed(section(results, reference), 0 if compared else columns))
        for section, columns in SECTIONS
    )
    return "\n\n".join(text for text in texts if text)


def _machine(results: Result, reference: Result) -> Iterator[str]:
    found = results["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    gpu = found["gpu"] or "no GPU"
    driver = f", driver {found['driver']}" if found.get("driver") else ""
    yield (
        f"Machine: {gpu}{driver}; {found['cpu']}, {found['cores']} cores; Python {found['python']}, {versions}; "
        f"{found['date']}. Measured there: copies of {found['copy_mib']} MiB move {found['copy_gb_s']:,.0f} GB/s, read "
        f"and write counted; bfloat16 matrix products reach {found['matmul_tflop_s']:,.0f} TFLOP/s."
        + (
            f" Column *{reference['system']}*: {reference['source']}."
            if reference["streams"]
            else ""
        )
    )


def _missing(results: Result, reference: Result) -> Iterator[str]:
    """What is not there, and why."""
    for name, unit in results["units"].items():
        if "result" not in unit:
            yield f"- not measured: {name}: {unit.get('skipped') or last_line(unit['error'])}"
            continue
        for case in unit["result"].get("cases", ()):
            if "error" in case:
                of = "".join(
                    f", {key} {case[key]}" for key in ("mode", "rows", "context") if key in case
                )
                yield f"- not measured: {name}{of}: {last_line(case['error'])}"


# Each with how many of its last columns are a peer's.
SECTIONS: tuple[tuple[Callable[[Result, Result], Iterator[str]], int], ...] = (
    (_machine, 0),
    (ladder, 0),
    (offline, 2),
    (steps, 1),
    (streams, 3),
    (growth, 0),
    (fp8, 0),
    (several, 0),
    (profile, 0),
    (deterministic, 0),
    (_missing, 0),
)


if __name__ == "__main__":
    main()

"""Writes the report's definitions into a document: `python -m paceline.loadgen.definitions_document FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from paceline.loadgen.definitions import DEFINITIONS, SYMBOLS

BEGIN, END = "<!-- definitions -->\n", "<!-- end of definitions -->\n"


def with_definitions(document: str) -> str:
    """The document with its definitions as the report has them. ValueError where it has no place for them."""
    before, _, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError("the document has no place for the definitions")
    lines = [SYMBOLS, "", "| Figure | Definition |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(text)} |" for name, text in DEFINITIONS]
    return before + BEGIN + "\n".join(lines) + "\n" + END + after


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_definitions(path.read_text(encoding="utf-8")), encoding="utf-8")

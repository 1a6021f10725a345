"""docs/load-generator.md says what the report says."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.loadgen.definitions import DEFINITIONS
from paceline.loadgen.definitions_document import with_definitions

DOCUMENT = Path(__file__).parents[2] / "docs" / "load-generator.md"


def test_the_document_has_the_reports_definitions() -> None:
    """Every definition stands in the document, word for word; its section on them says how to bring it up to date."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_definitions(text) == text
    assert all(f"| {name} |" in text for name, _ in DEFINITIONS)


def test_a_document_without_a_place_for_them() -> None:
    """Nothing is appended to a file that was not made for it."""
    with pytest.raises(ValueError, match="no place"):
        with_definitions("# Other\n")

"""The documentation site, without building it: `make docs` does that, and is strict about the rest."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import generated
import messages
import tuning_tables
from paceline.server.config import ServeConfig
from tables import updated

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
WRITTEN = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")
}


def pages(entries: Any) -> Iterator[str]:
    """The pages of a navigation, section by section."""
    for entry in entries:
        for target in entry.values():
            yield from pages(target) if isinstance(target, list) else [target]


def anchors(page: str) -> set[str]:
    """What a link into a page may name: its headings, spelled as mkdocs spells them."""
    text = re.sub(r"^```.*?^```", "", WRITTEN[page], flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


def test_every_page_is_in_the_navigation() -> None:
    """No page is lost; what the navigation names twice or wrongly is found."""
    named = list(pages(SITE["nav"]))

    assert len(named) == len(set(named))
    assert WRITTEN.keys() - set(named) == set()
    assert set(generated.PAGES) <= set(named)


@pytest.mark.parametrize("page", sorted(WRITTEN))
def test_links_and_pictures_are_there(page: str) -> None:
    """Relative links name a page of the site and a heading in it, pictures a file in both variants."""
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", WRITTEN[page]):
        target, _, anchor = link.partition("#")
        name = (
            str((DOCS / page).parent.joinpath(target).resolve().relative_to(DOCS))
            if target
            else page
        )
        if target.endswith(".svg"):
            assert (DOCS / name).is_file(), link
            other = name.replace("-light", "-dark") if anchor == "only-light" else name
            assert f"{Path(other).name}#only-dark" in WRITTEN[page], f"{link} for light pages alone"
        elif target.endswith(".png"):
            assert (DOCS / name).is_file(), link
        elif name not in generated.PAGES:
            assert name in WRITTEN, link
            assert not anchor or anchor in anchors(name), link


def test_the_settings_page_has_every_setting() -> None:
    """The page that is made from the settings names each once, with its default."""
    made = generated.settings()

    for name, field in ServeConfig.model_fields.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", made, re.MULTILINE)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"`{field.default}`" in row


def test_the_overload_table_is_that_of_the_results() -> None:
    """Writing the table of the tuning guide anew changes nothing."""
    rows = json.loads(tuning_tables.RESULTS.read_text())["burst"]
    page = WRITTEN["tuning.md"]

    assert updated(page, tuning_tables.overload(rows), tuning_tables.MARKS) == page


def test_references_name_what_is_there() -> None:
    """Each `:::` of the references is a module of ours, or a name at its top."""
    for page, text in WRITTEN.items():
        for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
            module, _, last = name.rpartition(".")
            assert source(name) or last in names(source(module)), f"{page}: {name}"


def source(module: str) -> str:
    """A module's text; empty where there is none."""
    path = module.replace(".", "/")
    for portion in ("server", "client", "loadgen"):
        for file in (ROOT / portion / f"{path}.py", ROOT / portion / path / "__init__.py"):
            if file.is_file():
                return file.read_text(encoding="utf-8")
    return ""


def names(text: str) -> set[str]:
    """What a module defines or imports by name."""
    found: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        found.add(getattr(node, "name", ""))
    return found


def test_explained_messages_are_those_of_the_code() -> None:
    """What the troubleshooting page explains is said somewhere; a message that changed is found."""
    known = "\n".join(messages.in_code())
    explained = messages.explained()

    assert len(explained) > 80
    assert [each for each in explained if not messages.matches(each, known)] == []

"""What mkdocs calls while it builds the site: adds the pages that are made from code, and leaves absent ones out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import generated

ROOT = Path(__file__).parent.parent.parent


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation without pages that this checkout does not have."""
    there = set(generated.PAGES)
    docs = Path(config.docs_dir)
    config.nav = _present(config.nav, lambda page: page in there or (docs / page).is_file())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages, with the generated ones."""
    for page, make in generated.PAGES.items():
        files.append(File.generated(config, page, content=make()))
    return files


def _present(entries: Any, there: Any) -> Any:
    """Entries whose pages are there; a section that is left empty goes, too."""
    kept = []
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            target = _present(target, there)
            if target:
                kept.append({title: target})
        elif there(target):
            kept.append(entry)
    return kept

"""A page as headless Chromium sees it, with the network cut off."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 60


def browser() -> str | None:
    """The browser's path, where there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass(frozen=True)
class Page:
    """The document after its scripts ran, and what they wrote to the console."""

    dom: str
    console: list[str]

    @cached_property
    def figures(self) -> dict[str, str]:
        """The HTML of each figure by its id."""
        found = re.findall(r'<figure id="([^"]+)">(.*?)</figure>', self.dom, re.DOTALL)
        return dict(found)

    def marks(self, figure: str, kind: str) -> list[tuple[str, int]]:
        """(key, points) of each drawn group of that class in a figure."""
        pattern = rf'<g class="{kind}" data-key="([^"]*)"(?: data-points="(\d+)")?'
        return [(key, int(n or 0)) for key, n in re.findall(pattern, self.figures[figure])]


def open_page(page: str, folder: Path, *, script: str = "", width: int = 1280) -> Page:
    """Opens the page's text from a file; `script` runs after the page's own."""
    binary = browser()
    assert binary is not None, "callers skip where there is no browser"
    path = folder / "page.html"
    extra = f"<script>{script}</script>" if script else ""
    path.write_text(page.replace("</body>", f"{extra}</body>"), encoding="utf-8")
    command = [binary, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--window-size={width},1200", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return Page(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])


def visit(url: str, folder: Path, *, patience_ms: int = 8000, width: int = 1280) -> Page:
    """Opens a page of this machine as it is after so long of the page's own time; no other address resolves."""
    binary = browser()
    assert binary is not None, "callers skip where there is no browser"
    command = [binary, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--disable-background-networking"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    command += ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--virtual-time-budget={patience_ms}"]
    command += [f"--window-size={width},1200", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return Page(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[-1][-1][-1] += data


def tables_of(html: str) -> list[list[list[str]]]:
    """The texts of every table: rows of cells, the heading first."""
    parser = _Tables()
    parser.feed(html)
    return parser.tables

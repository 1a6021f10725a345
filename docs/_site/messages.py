"""Compares the messages of the troubleshooting page with those of the code.

    python docs/_site/messages.py

lists what the code raises on purpose and the page does not explain.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
PORTIONS = ("server", "client", "loadgen")
RAISED = {
    *("SetupError", "QueueFull", "LimitReached", "Unavailable", "DeadlineExceeded"),
    *("FeatureUnavailable", "Unauthenticated", "PermissionDenied", "AccessError", "WorkloadError"),
}


def explained() -> list[str]:
    """Messages of the page's tables: what stands in backticks in their first columns."""
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    cells = [row[1] for row in rows if len(row) == 5]
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def in_code() -> list[str]:
    """All strings of the code, with … for what is put into them."""
    return [text for tree in _trees() for node in ast.walk(tree) if (text := _text(node))]


def raised() -> Iterator[str]:
    """First arguments of the errors that are made on purpose."""
    for tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                name = ast.unparse(node.func).rpartition(".")[2]
                if name in RAISED and (text := _text(node.args[0])):
                    yield text


def matches(message: str, text: str) -> bool:
    """Whether a text of the code holds a message; … on either side may be anything."""
    pattern = ".*".join(re.escape(part) for part in message.split("…"))
    return re.search(pattern, text) is not None


def _trees() -> Iterator[ast.Module]:
    for portion in PORTIONS:
        for path in sorted((ROOT / portion / "paceline").rglob("*.py")):
            yield ast.parse(path.read_text(encoding="utf-8"))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(\.\d)?[sdfg]", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "…" for part in node.values)
    return ""


def main() -> None:
    known = explained()
    for text in sorted(set(raised())):
        if not any(matches(message, text) for message in known):
            print(text)  # noqa: T201


if __name__ == "__main__":
    main()

"""How one of our processes starts another: by the same Python, which finds the same modules."""

from __future__ import annotations

import os
import sys


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """Runs `module`; without the current directory among the places that modules come from."""
    return (sys.executable, "-P", "-m", module, *arguments)


def environment() -> dict[str, str]:
    """With our own path: what we can import the child can, from the same places."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

"""Running what is measured as a command of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PACELINE = [sys.executable, "-m", "paceline.client.cli"]
Run = dict[str, Any]


def json_of(command: list[str]) -> Run:
    """The JSON object on the last line that a command prints. SystemExit, with its messages, where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    run: Run = json.loads(done.stdout.splitlines()[-1])
    return run

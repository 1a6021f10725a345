"""The server's commands."""

from __future__ import annotations

import subprocess
import sys


def test_bad_flags_are_found_without_torch() -> None:
    """Reading flags imports neither torch nor gRPC, so that mistakes and --help come at once."""
    code = (
        "import sys\n"
        "from paceline.server.cli import main_serve\n"
        "assert main_serve(['--port', 'x']) == 2\n"
        "heavy = {'torch', 'transformers', 'grpc'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

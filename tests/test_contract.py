"""The contract against the released one: `buf breaking` lets additions pass and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROTO = "proto/paceline/v1/generation.proto"


def breaking(folder: Path) -> subprocess.CompletedProcess[str]:
    """Compares a folder's contract with the committed baseline."""
    buf = shutil.which("buf")
    if buf is None:
        pytest.skip("buf is not installed")
    command = [buf, "breaking", "--against", str(ROOT / "proto" / "baseline.binpb")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_contract_breaks_nothing_released() -> None:
    """Clients made from the baseline work with this contract."""
    done = breaking(ROOT)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("uint32 top_k = 2;", "uint64 top_k = 2;", "changed type"),
        ("uint32 top_k = 2;", "uint32 top_k = 21;", 'Previously present field "2"'),
        ("rpc Abort(AbortRequest) returns (AbortResponse);", "", 'Previously present RPC "Abort"'),
        ("uint32 top_k = 2;", "uint32 top_k = 2; uint32 brand_new = 99;", ""),
    ],
    ids=["type", "number", "method", "addition"],
)
def test_breaking_changes_are_found(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    """A changed type or number and a method that is gone fail the check; an addition passes."""
    text = (ROOT / PROTO).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / PROTO).parent.mkdir(parents=True)
    (tmp_path / PROTO).write_text(text.replace(old, new), encoding="utf-8")
    shutil.copy(ROOT / "buf.yaml", tmp_path)

    done = breaking(tmp_path)

    assert complaint in done.stdout
    assert (done.returncode == 0) == (not complaint)

"""Kernels that are launched early: what they may do before they have waited."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from paceline.server.runner import triton_early

PROGRAM = Path(__file__).parents[1] / "triton_ptx.py"
_ACCESS = re.compile(r"\b(ld\.global|cp\.async\.c[ag]|st\.global|atom\.\S*global)\S*")


@pytest.fixture(scope="module")
def accesses() -> dict[str, tuple[list[str], list[str]]]:
    """By kernel: accesses of the device's memory before the wait, and behind it."""
    away = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(PROGRAM)]
    run = subprocess.run(command, env=away, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return {name: _around(ptx) for name, ptx in json.loads(run.stdout).items()}


def _around(ptx: str) -> tuple[list[str], list[str]]:
    before, behind = ptx.split("griddepcontrol.wait")  # there is one
    between, behind = behind.split("griddepcontrol.launch_dependents")
    assert not _ACCESS.search(between)
    return _found(before), _found(behind)


def _found(ptx: str) -> list[str]:
    return [match[0] for match in _ACCESS.finditer(ptx)]


@pytest.mark.parametrize("kernel", ["large layer", "norm"])
def test_nothing_is_read_before(
    kernel: str, accesses: dict[str, tuple[list[str], list[str]]]
) -> None:
    """Rows are what the kernel in front has written."""
    before, behind = accesses[kernel]

    assert before == []
    assert any(access.startswith("st.global") for access in behind)


@pytest.mark.parametrize("kernel", ["small layer, 1 row", "small layer, 8 rows"])
def test_small_layers_fetch_weights_before(
    kernel: str, accesses: dict[str, tuple[list[str], list[str]]]
) -> None:
    """All of them, which are the loads of 16 bytes where they are aligned, and nothing is written."""
    before, behind = accesses[kernel]

    assert any(".v4" in access for access in before)
    assert all(access.startswith("ld.global") for access in before)
    assert any(access.startswith("st.global") for access in behind)


def test_few_rows_are_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many rows kernels begin one after the other on any GPU, and with few where somebody says so."""
    monkeypatch.setattr(triton_early, "can", lambda: True)

    assert triton_early.early_options(64) == {"EARLY": True, "launch_pdl": True}
    assert triton_early.early_options(65) == {"EARLY": False}
    monkeypatch.setattr(triton_early, "_allowed", True)  # put back behind the test
    triton_early.allow(False)
    assert triton_early.early_options(64) == {"EARLY": False}


def test_hopper_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither older GPUs nor AMD's, nor the interpreter."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    can = triton_early.can.__wrapped__

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert can()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    assert not can()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (10, 0))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not can()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not can()

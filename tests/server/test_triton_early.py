"""Kernels that are launched early: what they may do before they have waited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from paceline.server.runner import triton_early

Accesses = dict[str, list[list[str]]]
PROGRAM = Path(__file__).parents[1] / "triton_ptx.py"
# What was there long before: weights, and what the host sent or the first kernel of a step made.
TABLES = {"cos", "sin", "positions", "token_slots", "page_table", "table_row", "blocks"}
BEFORE = {
    "small, 1 row: linear_kernel": {"weight_ptr"},
    "small: linear_kernel": {"weight_ptr"},
    "small gate: linear_kernel": {"weight_ptr"},
    "rotate: _rotate_and_store": TABLES - {"blocks"},
    "rotate, normed: _rotate_and_store": TABLES - {"blocks"},
    "attend: _attend": {"blocks"},
    "attend, split: _attend": {"blocks"},
    "attend, split: _merge": {"blocks"},
}


@pytest.fixture(scope="module")
def kernels() -> dict[str, Accesses]:
    away = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(PROGRAM)]
    run = subprocess.run(command, env=away, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found: dict[str, Accesses] = json.loads(run.stdout)
    return found


def test_nothing_of_the_kernel_in_front_is_read_before(kernels: dict[str, Accesses]) -> None:
    """Neither its rows nor queries nor sums; large layers, norms and gates read nothing at all."""
    assert {name.split(": ")[1] for name in kernels} == {
        "linear_kernel", "rms_norm_kernel", "round_rows_kernel", "gate_kernel",
        "_rotate_and_store", "_attend", "_merge",
    }  # fmt: skip
    for name, found in kernels.items():
        read = {origin for _, *origins in found["before"] for origin in origins}
        assert read == BEFORE.get(name, set()), name


def test_nothing_is_written_before(kernels: dict[str, Accesses]) -> None:
    """The kernel in front may still read what lies there."""
    for name, found in kernels.items():
        assert {kind for kind, *_ in found["before"]} <= {"ld.global"}, name
        assert "st.global" in {kind for kind, *_ in found["behind"]}, name


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

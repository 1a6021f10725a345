"""Decoder layers in few calls."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paceline.server.runner.fuse import fuse_projections
from paceline.server.runner.lean import use_lean_layers
from tiny_models import FAMILIES, tiny_model

LEAN = {"llama", "mistral", "qwen2"}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_fit_are_replaced(family: str) -> None:
    """Llama's kind gets lean layers after fusing, and no other; that tokens stay is the oracle's matter."""
    _, model = tiny_model(family)
    assert use_lean_layers(model) == 0

    fuse_projections(model)

    assert use_lean_layers(model) == (3 if family in LEAN else 0)


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_sleep_soon(given: dict[str, str], found: str) -> None:
    """Before torch is loaded the spinning is bounded, unless the user has said otherwise."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = (
        "import os, sys, paceline.server.runner; assert 'torch' not in sys.modules;"
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == found

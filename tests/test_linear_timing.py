"""Timing the ways to run a linear layer."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from linear_timing import fastest, make_trial, time_configs
from paceline.server.runner.linear_configs import TORCH, Config, Layer
from triton_interpreter import DEVICE


def test_a_config_that_cannot_run_is_no_candidate() -> None:
    """Its error is kept in place of a time."""
    trial = make_trial(Layer("norm_gated", 16, 32), 2, DEVICE)

    rows = time_configs(trial, [Config("dot", 16, 16, split_k=2), TORCH])

    assert "cannot be split" in rows[0]["error"]
    assert rows[1]["us"] > 0
    assert fastest(rows) is rows[1]

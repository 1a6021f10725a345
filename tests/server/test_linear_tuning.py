"""Measuring the ways to run a linear layer, and keeping the result."""

from __future__ import annotations

import triton_interpreter  # noqa: F401 - before all that may import Triton  # isort: skip
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from paceline.server.runner.linear_configs import TORCH, Config, Layer, candidates
from paceline.server.runner.linear_tuning import (
    load_table,
    make_trial,
    save_table,
    table_path,
    time_configs,
    tune,
)

CPU = torch.device("cpu")
LAYER = Layer("linear_residual", 16, 32)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_what_was_tuned_is_found_again() -> None:
    """The winner is one of the candidates, and survives being saved beside others."""
    best = tune([LAYER], [2], CPU, budget_s=None)
    save_table({"other": {"config": {"kind": "vec", "block_n": 2}}}, CPU)
    save_table(best, CPU)

    table = load_table(CPU)

    assert list(best) == [LAYER.key(2)]
    assert table[LAYER.key(2)] in candidates(LAYER, 2)
    assert table["other"] == Config("vec", 2)


def test_the_budget_ends_tuning() -> None:
    """Without time nothing is measured, and the guesses stay."""
    assert tune([LAYER], [2], CPU, budget_s=0.0) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"a": {"config": {"gone": 1}}}', '{"a": 1}'])
def test_tables_of_no_use_are_passed_over(text: str) -> None:
    """A missing, broken or foreign table is as good as none."""
    assert load_table(CPU) == {}
    table_path(CPU).parent.mkdir(parents=True)
    table_path(CPU).write_text(text, encoding="utf-8")

    assert load_table(CPU) == {}


def test_a_config_that_cannot_run_is_no_candidate() -> None:
    """Its error is kept in place of a time."""
    trial = make_trial(Layer("norm_gated", 16, 32), 2, CPU)

    rows = time_configs(trial, [Config("dot", 16, 16, split_k=2), TORCH])

    assert "cannot be split" in rows[0]["error"]
    assert rows[1]["us"] > 0

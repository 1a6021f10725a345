"""Joined projections compute what the separate ones do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from paceline.server.runner.fuse import FusedAttention, FusedMLP, fuse_projections
from tiny_models import FAMILIES, tiny_model

FUSED = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"}
LAYERS = 3


def logits(model: nn.Module) -> torch.Tensor:
    """Of two rows longer than the sliding windows."""
    ids = torch.randint(256, (2, 40), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_equals_unfused(family: str) -> None:
    """Every family gives the same logits, whether its projections are joined or left alone."""
    torch.set_num_threads(1)
    _, model = tiny_model(family)
    fused = copy.deepcopy(model)

    replaced = fuse_projections(fused)

    assert replaced == (2 * LAYERS if family in FUSED else 0)
    torch.testing.assert_close(logits(fused), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_biases_are_joined(family: str) -> None:
    """Families and settings with biases keep them."""
    bias = {"attention_bias": True, "mlp_bias": True} if family == "llama" else {}
    _, model = tiny_model(family, **bias)
    fused = copy.deepcopy(model)

    fuse_projections(fused)

    attention = next(m for m in fused.modules() if isinstance(m, FusedAttention))
    assert attention.qkv_proj.bias is not None
    assert attention.qkv_proj.bias.abs().max() > 0
    torch.testing.assert_close(logits(fused), logits(model), rtol=1e-4, atol=1e-4)


def test_generate_works_on_a_fused_model() -> None:
    """transformers' cache and its own attention go through the joined modules."""
    _, model = tiny_model("qwen3")
    fused = copy.deepcopy(model)
    fuse_projections(fused)
    ids = torch.arange(12)[None]
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 258}

    got = fused.generate(ids, **settings)  # type: ignore[operator]  # behind a decorator

    assert got.tolist() == model.generate(ids, **settings).tolist()  # type: ignore[operator]


def test_what_is_not_plain_is_left_alone() -> None:
    """Layers that something else replaced before stay as they are."""
    _, model = tiny_model("llama")
    mlp: Any = next(m for m in model.modules() if type(m).__name__ == "LlamaMLP")
    mlp.up_proj = nn.Sequential(mlp.up_proj)

    assert fuse_projections(model) == 2 * LAYERS - 1
    assert not isinstance(mlp, FusedMLP)

"""Linear layers whose weights are laid out once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from paceline.server.runner.linear import PackedLinear, pack_linear_layers


class Pair(nn.Module):
    """Both kinds of linear layer that the checked families have, one with and one without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(48, 80, bias=False)
        self.transposed = Conv1D(24, 80)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.transposed(torch.relu(self.plain(x)))
        return y


def pair(dtype: torch.dtype) -> Pair:
    torch.manual_seed(3)
    model = Pair().requires_grad_(False)
    model.transposed.bias.normal_()
    return model.to(dtype)


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_packed_layers_compute_the_same(rows: int) -> None:
    """Weights, transposed weights and biases all arrive; the error is that of bfloat16."""
    x = torch.randn(1, rows, 48, generator=torch.Generator().manual_seed(rows))
    expected = pair(torch.float32)(x)
    model = pair(torch.bfloat16)
    if pack_linear_layers(model) == 0:
        pytest.skip("this torch build or processor has no oneDNN kernels for bfloat16")

    got = model(x.bfloat16())

    assert isinstance(model.plain, PackedLinear)
    assert isinstance(model.transposed, PackedLinear)
    error = (got.float() - expected).norm() / expected.norm()
    assert error < 0.02


def test_float32_layers_stay() -> None:
    """Only bfloat16 gains from packing."""
    model = pair(torch.float32)

    assert pack_linear_layers(model) == 0
    assert isinstance(model.plain, nn.Linear)

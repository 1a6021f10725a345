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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_packed_layers_compute_the_same(rows: int, dtype: torch.dtype) -> None:
    """Weights, transposed weights and biases all arrive; the error is that of the format."""
    x = torch.randn(1, rows, 48, generator=torch.Generator().manual_seed(rows))
    expected = pair(torch.float32)(x)
    model = pair(dtype)
    if pack_linear_layers(model) == 0:
        pytest.skip(f"this torch build or processor has no oneDNN kernels for {dtype}")

    got = model(x.to(dtype))

    assert isinstance(model.plain, PackedLinear)
    assert isinstance(model.transposed, PackedLinear)
    error = (got.float() - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype is torch.float32 else 0.02)


def test_other_formats_stay() -> None:
    """What oneDNN does not take is left alone."""
    model = pair(torch.float64)

    assert pack_linear_layers(model) == 0
    assert isinstance(model.plain, nn.Linear)

"""Linear layers in int8 on CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from paceline.server.errors import SetupError
from paceline.server.runner.quantize import Int8Linear, quantize_linear_layers
from tiny_models import FAMILIES, tiny_model


def layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(96, 64, bias=bias).requires_grad_(False)


def quantized(linear: nn.Linear, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = nn.Sequential(copy.deepcopy(linear).to(dtype))
    assert quantize_linear_layers(model) == 1
    assert isinstance(model[0], Int8Linear)
    return model


def inputs(rows: int) -> torch.Tensor:
    """Rows of very different size: one grid for all of them would round the small ones away."""
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(rows))
    return x * torch.logspace(-3, 3, rows)[:, None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_is_close(bias: bool, dtype: torch.dtype) -> None:
    """Every row is within 3 % of float32, however large its neighbours are."""
    x, linear = inputs(8), layer(bias)

    got = quantized(linear, dtype)(x.to(dtype))

    expected = linear(x)
    assert got.dtype is dtype
    error = (got.float() - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 0.03


def test_sums_do_not_saturate() -> None:
    """The largest weights times the largest activations give the right sum, on every processor."""
    linear = nn.Linear(256, 16, bias=False).requires_grad_(False)
    linear.weight.fill_(0.5)

    got = quantized(linear)(torch.ones(4, 256))

    torch.testing.assert_close(got, torch.full((4, 16), 128.0), rtol=0.01, atol=0)


def test_rows_do_not_depend_on_each_other() -> None:
    """A row gives the same bits alone and among others, whatever those hold."""
    x, model = inputs(8), quantized(layer())
    alone = model(x[3:4])
    x[5] = float("nan")

    got = model(x)

    assert torch.equal(got[3:4], alone)
    assert got[5].isnan().all()


def test_a_row_of_zeros_is_zero() -> None:
    """Padding divides nothing by zero."""
    assert torch.equal(quantized(layer(bias=False))(torch.zeros(2, 96)), torch.zeros(2, 64))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_close(family: str) -> None:
    """A whole quantised model's logits correlate with the exact ones."""
    torch.set_num_threads(1)
    _, model = tiny_model(family)
    rough = copy.deepcopy(model)
    ids = torch.randint(256, (1, 24), generator=torch.Generator().manual_seed(5))

    assert quantize_linear_layers(rough) > 0

    with torch.inference_mode():
        want, got = (each(input_ids=ids, use_cache=False).logits for each in (model, rough))
    assert torch.corrcoef(torch.stack((want.flatten(), got.flatten())))[0, 1] > 0.97


def test_a_torch_without_operators_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start ends with one line."""
    monkeypatch.setattr("paceline.server.runner.quantize._OPERATOR", "no_such_operator")
    with pytest.raises(SetupError, match="this torch build has no int8 operators"):
        quantize_linear_layers(nn.Sequential(layer()))

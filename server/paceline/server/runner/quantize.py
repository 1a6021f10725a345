"""Linear layers on CPU with weights in int8."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from ..errors import SetupError
from .linear import detach_from_file, replace_linear_layers

# Elsewhere products of bytes are summed in 16 bits, and 7 bits of weight keep the sums of two from saturating.
# Weights, with a scale for each output, lose less by it than activations.
_WIDE_SUMS = ("avx512_vnni", "avx_vnni", "amx_int8")
_OPERATOR = "linear_with_input_q_dq_qweight_dq_output_fp32"
_ACTIVATION_LEVELS = 127
_LEAST = 1e-30  # stands for the largest value of a row of zeros


class Int8Linear(nn.Module):
    """`y = x W^T + b` with int8 weights, a scale for each output, and int8 activations, a scale for each token.

    Args:
        levels: steps from zero to the largest weight of an output.

    Each token is scaled by its own largest value and then rounded on a fixed grid: what a row gives does
    not depend on the rows beside it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, levels: int) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else bias.detach().float()
        self._packed = _pack_int8(weight.float(), levels)

    def forward(self, x: Tensor) -> Tensor:
        """Any float format in, the same out."""
        flat = x.reshape(-1, self.in_features).float()
        largest = flat.abs().amax(1, keepdim=True).clamp_min_(_LEAST)
        y: Tensor = getattr(torch.ops.quantized, _OPERATOR)(
            flat / largest, 1 / _ACTIVATION_LEVELS, _ACTIVATION_LEVELS + 1, self._packed
        )
        y = y * largest if self.bias is None else torch.addcmul(self.bias, y, largest)
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)


def _pack_int8(weight: Tensor, levels: int) -> object:
    """torch's own packed weight, laid out for the processor; `levels` lie between 0 and an output's largest."""
    scale = weight.abs().amax(1).clamp_min_(_LEAST) / levels
    rounded = (weight / scale[:, None]).round_().to(torch.int8)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        # The tensor type is announced to go some day; the operators and their packed weights are not.
        warnings.filterwarnings("ignore", message="torch.quantize_per", category=UserWarning)
        typed = torch._make_per_channel_quantized_tensor(rounded, scale.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(typed, None)


def quantize_linear_layers(model: nn.Module) -> int:
    """Replaces every linear layer of a model on CPU in place, the output matrix included; returns how many.

    Embeddings stay as they are.

    Raises:
        SetupError: this torch cannot.
    """
    if not hasattr(torch.ops.quantized, _OPERATOR):
        raise SetupError("--quantization int8: this torch build has no int8 operators for CPU")
    levels = _weight_levels()

    def make(weight: Tensor, bias: Tensor | None) -> nn.Module:
        return Int8Linear(weight, bias, levels)

    replaced = replace_linear_layers(model, make, [torch.float32, torch.bfloat16, torch.float16])
    detach_from_file(model)
    return replaced


def _weight_levels() -> int:
    capabilities = getattr(
        torch.cpu, "get_capabilities", None
    )  # since torch 2.12; before, the safe way
    found = {} if capabilities is None else capabilities()
    return 127 if any(found.get(feature) for feature in _WIDE_SUMS) else 63

"""Linear layers on CPU: weights laid out for the processor once, instead of at every call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

logger = logging.getLogger(__name__)

# A row count the layout is made for; it serves others as well.
TYPICAL_ROWS = 32


class PackedLinear(nn.Module):
    """`y = x W^T + b` on CPU, up to twice as fast as `nn.Linear` for few rows.

    torch's own compiler replaces linear layers by the same operators when it freezes a model.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TYPICAL_ROWS)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y


def pack_linear_layers(model: nn.Module) -> int:
    """Replaces the linear layers of a float32 or bfloat16 CPU model in place; returns how many."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        logger.info("this torch build has no oneDNN linear operators: weights stay unpacked")
        return 0
    dtypes = [dtype for dtype in (torch.float32, torch.bfloat16) if _can_pack(dtype)]
    replaced = replace_linear_layers(model, PackedLinear, dtypes)
    if replaced:
        detach_from_file(model)
    return replaced


def _can_pack(dtype: torch.dtype) -> bool:
    try:
        PackedLinear(torch.zeros(16, 16, dtype=dtype), None)
    except RuntimeError as exc:
        logger.info("this processor has no oneDNN kernels for %s: %s", dtype, exc)
        return False
    return True


def replace_linear_layers(
    model: nn.Module,
    make: Callable[[Tensor, Tensor | None], nn.Module],
    dtypes: list[torch.dtype],
) -> int:
    """Puts `make(weight, bias)` in place of each linear layer of these dtypes; returns how many.

    One after the other, so that no more than one layer's weights are there twice.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear | Conv1D) and child.weight.dtype in dtypes:
                source: Any = child  # both have a weight and perhaps a bias
                weight = source.weight.detach()
                weight = weight.t() if isinstance(child, Conv1D) else weight
                setattr(parent, name, make(weight, source.bias))
                replaced += 1
            del child
    return replaced


def detach_from_file(model: nn.Module) -> None:
    """Copies what is left, so that the mapped weights file, now there twice, can be let go."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()

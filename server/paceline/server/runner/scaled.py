"""Weights in fp8, each output with a scale of its own: half the bytes to read, twice the products a second.

The weights are stored as E4M3 (Micikevicius et al. 2022, arXiv:2209.05433). Rows are rounded to fp8 as well, each by
its own largest value: what a row gives does not depend on the rows beside it. A single row is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import SetupError

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of E4M3
LEAST = 1e-12  # stands for the largest value of a row of zeros
_MULTIPLE = 16  # what torch's product asks of a weight's sides


class Scaled(NamedTuple):
    """A weight matrix: `values * scale[:, None]`.

    Attributes:
        values: `[outputs, inputs]` in fp8.
        scale: `[outputs]` in float32.
    """

    values: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Scaled:
        scale = weight.abs().amax(1).float().clamp_min_(LEAST) / LARGEST
        return cls((weight.float() / scale[:, None]).to(FP8), scale)


Weight: TypeAlias = Tensor | Scaled


def values_of(weight: Weight) -> Tensor:
    """The matrix as it is stored."""
    return weight.values if isinstance(weight, Scaled) else weight


def take_over(layers: nn.Module, device: torch.device) -> dict[nn.Module, Scaled]:
    """The weights of linear layers in fp8 on `device`. The layers lose theirs, so that one at most is there twice."""
    found: dict[nn.Module, Scaled] = {}
    for linear in layers.modules():
        if isinstance(linear, nn.Linear):
            found[linear] = Scaled.of(linear.weight.detach().to(device))
            linear.weight = nn.Parameter(linear.weight.new_empty(0), requires_grad=False)
    return found


def join(parts: Sequence[Scaled]) -> Scaled:
    """One weight for all.

    Raises:
        SetupError: torch does not multiply such weights.
    """
    outputs, inputs = sum(len(part.values) for part in parts), parts[0].values.shape[1]
    if outputs % _MULTIPLE or inputs % _MULTIPLE:
        raise SetupError(
            f"--quantization fp8 needs layers whose sizes are multiples of {_MULTIPLE}; one has "
            f"{outputs} outputs and {inputs} inputs"
        )
    values, scales = zip(*parts, strict=True)
    # Not every device joins fp8; bytes are bytes.
    joined = torch.cat([each.view(torch.uint8) for each in values]).view(FP8)
    return Scaled(joined, torch.cat(scales))


def multiply(
    rows: Tensor, scale: Tensor, weight: Scaled, dtype: torch.dtype, bias: Tensor | None = None
) -> Tensor:
    """`rows @ weight.T + bias` `[M, outputs]` of fp8 rows `[M, inputs]` with scales `[M, 1]`, by torch."""
    out: Tensor = torch._scaled_mm(
        rows,
        weight.values.t(),
        scale_a=scale,
        scale_b=weight.scale[None],
        out_dtype=torch.bfloat16,  # no other is offered
    )
    out = out.to(dtype)
    return out if bias is None else out + bias

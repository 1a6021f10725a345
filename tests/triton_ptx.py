"""Kernels as a Hopper GPU would run them when they are launched early: compiled here, where nobody needs to have one.

A program, since tests interpret kernels: prints a JSON object of PTX by name.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from paceline.server.runner.linear_configs import Layer, pick
from paceline.server.runner.triton_linear import plan
from paceline.server.runner.triton_rows import Launch, Norm, plan_norm

_TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32"}


def launches() -> dict[str, Launch]:
    wide, narrow = Layer("linear_residual", 4096, 4096), Layer("norm_linear", 960, 576)
    x = _empty(8, 576)
    return {
        "large layer": _linear(wide, 8),
        "small layer, 1 row": _linear(narrow, 1),
        "small layer, 8 rows": _linear(narrow, 8),
        "norm": plan_norm(x, Norm(_empty(576), 1e-5, 0.0), x),
    }


def ptx(launch: Launch) -> str:
    options = {key: value for key, value in launch.options.items() if key != "launch_pdl"}
    settings = {key: options.pop(key) for key in ("num_warps", "num_stages") if key in options}
    values = dict(zip(launch.kernel.arg_names, launch.args, strict=False)) | options
    values |= {"EARLY": True, "EMULATED": False}
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    aligned: dict[tuple[int], list[list[object]]] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = values[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = _TYPES[value.dtype]
            aligned[index,] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[index,] = value
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    source = ASTSource(launch.kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=settings)
    return str(compiled.asm["ptx"])


def _linear(layer: Layer, m: int) -> Launch:
    config, out = pick(layer, m), _empty(m, layer.n)
    norm = Norm(_empty(layer.k), 1e-5, 0.0) if layer.has_norm and config.fuse_norm else None
    residual = out if layer.op == "linear_residual" else None
    weight = _empty(layer.weight_rows, layer.k)
    return plan(_empty(m, layer.k), weight, None, out, config, norm=norm, residual=residual)


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


if __name__ == "__main__":
    json.dump({name: ptx(launch) for name, launch in launches().items()}, sys.stdout)

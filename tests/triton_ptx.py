"""What kernels that are launched early touch before they have waited, compiled for a Hopper GPU without having one.

A program, since tests interpret kernels. Calls the GPU's operators on tensors without contents, and compiles each
kernel that they would launch. Prints a JSON object: by operator and kernel the accesses of the device's memory before
the wait and behind it, each with the arguments that its address comes from.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from paceline.server.runner import triton_early
from paceline.server.runner.scaled import FP8, Scaled
from paceline.server.runner.triton_attention import SPLIT, PagedStep, attend
from paceline.server.runner.triton_layer import rotate_and_store
from paceline.server.runner.triton_linear import linear_residual, norm_linear
from paceline.server.runner.triton_rows import gated

_TYPES = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", FP8: "fp8e4nv"}
_ACCESS = re.compile(r"\b(ld\.global|cp\.async\.c[ag]|st\.global|atom\.\S*global|red\.\S*global)")
_REGISTER = re.compile(r"%\w+")
Launched = tuple[Any, tuple[Any, ...], dict[str, Any]]


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def operators() -> dict[str, Callable[[], object]]:
    """Each kernel that takes EARLY, and each way through it that loads in another order."""
    wide, narrow, tall = empty(4096, 4096), empty(960, 576), empty(4096, 14336)
    fp8 = Scaled(tall.to(FP8), empty(4096, dtype=torch.float32))
    ints = {"dtype": torch.int32}
    cache, qkv, turn = empty(2, 9, 8, 16, 128), empty(8, 6144), empty(256, 64)
    steps = [
        PagedStep(empty(8, **ints), empty(8, **ints), empty(8, 4, **ints), empty(8, 64, **ints), 1, splits)
        for splits in (1, 16)
    ]  # fmt: skip
    return {
        "large": lambda: linear_residual(empty(8, 4096), wide, None, empty(8, 4096)),
        "large, 1 row": lambda: norm_linear(empty(1, 4096), empty(4096), 1e-5, wide),
        "fp8, shared K": lambda: linear_residual(empty(8, 14336), fp8, None, empty(8, 4096)),
        "small, 1 row": lambda: norm_linear(empty(1, 576), empty(576), 1e-5, narrow),
        "small": lambda: norm_linear(empty(8, 576), empty(576), 1e-5, narrow),
        "small gate": lambda: norm_linear(
            empty(8, 576), empty(576), 1e-5, empty(3072, 576), activation="silu_mul"
        ),
        "gate": lambda: gated(empty(8, 28672), "silu_mul"),
        "rotate": lambda: rotate_and_store(qkv, turn, turn, cache, steps[0], 32),
        "rotate, normed": lambda: rotate_and_store(
            qkv, turn, turn, cache, steps[0], 32, (empty(128), empty(128), 1e-5)
        ),
        "attend": lambda: attend(empty(8, 32, 128), cache, steps[0], scale=1.0),
        "attend, split": lambda: attend(
            empty(8, 32, 128), cache, steps[1], scale=1.0, window=SPLIT
        ),
    }


def launched(operator: Callable[[], object]) -> list[Launched]:
    """The kernels that it would launch, which must be early ones."""
    found: list[Launched] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        assert options.pop("launch_pdl")
        found.append((kernel, args, options))

    with mock.patch.object(JITFunction, "run", record), mock.patch.object(triton_early, "can"):
        operator()
    return found


def compiled(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[str, list[str]]:
    """Its PTX, and the names of its parameters there."""
    settings = {key: options.pop(key) for key in ("num_warps", "num_stages") if key in options}
    values = dict(zip(kernel.arg_names, args, strict=False)) | options | {"EMULATED": False}
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    aligned: dict[tuple[int], list[list[object]]] = {}
    for index, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if isinstance(value, Tensor):
            signature[parameter.name] = f"*{_TYPES[value.dtype]}"
            aligned[index,] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[index,] = value
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    source = ASTSource(kernel, signature, constants, aligned)
    found = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=settings)
    return str(found.asm["ptx"]), [name for name, kind in signature.items() if kind != "constexpr"]


def accesses(ptx: str, parameters: list[str]) -> dict[str, list[list[str]]]:
    """Kind and origins of each access, before the one wait and behind it."""
    origins: dict[str, set[str]] = {}
    found: dict[str, list[list[str]]] = {"before": [], "behind": []}
    waits = 0
    for line in ptx.splitlines():
        waits += "griddepcontrol.wait" in line
        target, sources = _operands(line)
        if (number := re.search(r"_param_(\d+)", line)) and "ld.param" in line:
            name = parameters[int(number[1])] if int(number[1]) < len(parameters) else ""
            origins[target[0]] = {name} - {""}
            continue
        comes_from = set().union(*(origins.get(each, set()) for each in sources))
        for each in target:
            origins[each] = origins.get(each, set()) | comes_from
        if kind := _ACCESS.search(line):
            address = _REGISTER.findall(line[line.index("[") :].split("]")[0])
            its = set().union(*(origins.get(each, set()) for each in address))
            found["behind" if waits else "before"].append([kind[1], *sorted(its)])
    assert waits == 1, f"{waits} waits"
    return found


def _operands(line: str) -> tuple[list[str], list[str]]:
    """The registers that an instruction writes, and those that it reads."""
    body = line.split("//")[0].strip().removesuffix(";")
    words = body.split(None, 2 if body.startswith("@") else 1)
    if len(words) < 2 or not words[-1]:
        return [], []
    rest, registers = words[-1], _REGISTER.findall(words[-1])
    if any(word.startswith("st.") for word in words) or rest.startswith("["):
        return [], registers
    written = _REGISTER.findall(rest.split("}" if rest.startswith("{") else ",")[0])
    return written, registers[len(written) :]


def main() -> Iterator[tuple[str, dict[str, list[list[str]]]]]:
    for name, operator in operators().items():
        for kernel, args, options in launched(operator):
            yield f"{name}: {kernel.fn.__name__}", accesses(*compiled(kernel, args, options))


if __name__ == "__main__":
    json.dump(dict(main()), sys.stdout)

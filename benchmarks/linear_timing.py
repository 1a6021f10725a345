"""Times the ways to run a linear layer on the GPU at hand.

A time is that of a call inside a CUDA graph whose calls take turns with weights that together do not fit into
the L2 cache, as the layers of a model do. Nothing here may run while a graph is captured.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paceline.server.runner.linear_configs import Config, Layer
from paceline.server.runner.scaled import Scaled, Weight
from paceline.server.runner.triton_linear import linear, linear_residual, norm_linear

EPS = 1e-5
MIN_CALLS, MAX_CALLS = 20, 128
REPLAYS = 5
# Of the largest output: far above bfloat16's rounding, or that of fp8 rows, far below any mistake.
TOLERANCE = {2: 0.02, 1: 0.06}


@dataclass(frozen=True, eq=False)
class Trial:
    """A layer with random tensors: calls take the weights in turn."""

    layer: Layer
    x: Tensor
    norm: Tensor
    weights: Sequence[Weight]
    residual: Tensor

    @property
    def calls(self) -> int:
        least = MIN_CALLS if self.x.is_cuda else 1
        return max(least, len(self.weights))

    def call(self, turn: int, config: Config) -> Tensor:
        weight, op = self.weights[turn % len(self.weights)], self.layer.op
        if op == "linear":
            return linear(self.x, weight, config=config)
        if op == "linear_residual":
            return linear_residual(self.x, weight, None, self.residual, config=config)
        act: Any = "silu_mul" if op == "norm_gated" else None
        return norm_linear(self.x, self.norm, EPS, weight, activation=act, config=config)


def make_trial(
    layer: Layer, m: int, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> Trial:
    """Tensors for `m` rows; weights until they are three times the L2 cache, at most MAX_CALLS."""
    copies = min(MAX_CALLS, math.ceil(3 * _l2_bytes(device) / layer.weight_bytes))
    make: Any = {"device": device, "dtype": dtype}
    plain = torch.empty(copies, layer.weight_rows, layer.k, **make)
    plain.uniform_(-1, 1).mul_(layer.k**-0.5)
    weights: Sequence[Weight] = list(plain)
    if layer.element_bytes == 1:
        weights = [Scaled.of(each) for each in plain]
    return Trial(
        layer=layer,
        x=torch.randn(m, layer.k, **make),
        norm=torch.rand(layer.k, **make) + 0.5,
        weights=weights,
        residual=torch.randn(m, layer.n, **make),
    )


def measure(call: Callable[[int], object], calls: int, device: torch.device) -> float:
    """Microseconds of one of `calls` calls, the median of a few replays of their graph; on CPUs without one."""
    call(0)  # compiles, and makes what must not be made while capturing
    if device.type != "cuda":
        return _timed(lambda: [call(turn) for turn in range(calls)]) / calls
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for turn in range(calls):
            call(turn)
    graph.replay()
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    times: list[float] = []
    for _ in range(REPLAYS):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def time_configs(trial: Trial, configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Each config with its `us`, or with the `error` for which it cannot be used; torch must be among them."""
    expected = next(trial.call(0, config) for config in configs if config.kind == "torch").float()
    device = trial.x.device
    rows = []
    for config in configs:
        row: dict[str, Any] = {"config": asdict(config)}
        try:
            worst = float((trial.call(0, config).float() - expected).abs().max())
            if not worst <= TOLERANCE[trial.layer.element_bytes] * float(expected.abs().max()):
                raise ArithmeticError(f"is off by {worst}")
            call = partial(trial.call, config=config)
            row["us"] = measure(call, trial.calls, device)
        except Exception as exc:  # a config that this GPU cannot run is only no candidate
            row["error"] = f"{type(exc).__name__}: {exc}"[:200]
        rows.append(row)
    return rows


def fastest(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row with the least time."""
    return min((row for row in rows if "us" in row), key=lambda row: float(row["us"]))


def _l2_bytes(device: torch.device) -> int:
    """Of the GPU's L2 cache; a small number on CPUs, where times mean nothing."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e6

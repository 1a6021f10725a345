"""Times the ways to run a linear layer on the GPU at hand, and keeps what was found.

A time is that of a call inside a CUDA graph whose calls take turns with weights that together do not fit into
the L2 cache, as the layers of a model do. Nothing here may run while a graph is captured.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .linear_configs import Config, Layer, candidates
from .triton_linear import linear, linear_residual, norm_linear

EPS = 1e-5
MIN_CALLS, MAX_CALLS = 20, 128
REPLAYS = 5
TOLERANCE = 0.02  # of the largest output: far above bfloat16's rounding, far below any mistake


@dataclass(frozen=True, eq=False)
class Trial:
    """A layer with random tensors: calls take the weights in turn."""

    layer: Layer
    x: Tensor
    norm: Tensor
    weights: Tensor
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
    weights = torch.empty(copies, layer.weight_rows, layer.k, **make)
    return Trial(
        layer=layer,
        x=torch.randn(m, layer.k, **make),
        norm=torch.rand(layer.k, **make) + 0.5,
        weights=weights.uniform_(-1, 1).mul_(layer.k**-0.5),
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
            if not worst <= TOLERANCE * float(expected.abs().max()):
                raise ArithmeticError(f"is off by {worst}")
            call = partial(trial.call, config=config)
            row["us"] = measure(call, trial.calls, device)
        except Exception as exc:  # a config that this GPU cannot run is only no candidate
            row["error"] = f"{type(exc).__name__}: {exc}"[:200]
        rows.append(row)
    return rows


def tune(
    shapes: Iterable[Layer],
    ms: Iterable[int],
    device: torch.device,
    *,
    budget_s: float | None = 10.0,
) -> dict[str, Any]:
    """The fastest config for each layer and number of rows, as JSON: by `Layer.key`, with its time in `us`.

    No further measurement begins after `budget_s`: what is missing then stays with the guess of `pick`.
    """
    started = time.monotonic()
    best: dict[str, Any] = {}
    ms = tuple(ms)
    for layer in shapes:
        for m in ms:
            if budget_s is not None and time.monotonic() - started >= budget_s:
                return best
            rows = time_configs(make_trial(layer, m, device), candidates(layer, m))
            best[layer.key(m)] = fastest(rows)
    return best


def fastest(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row with the least time."""
    return min((row for row in rows if "us" in row), key=lambda row: float(row["us"]))


def save_table(table: dict[str, Any], device: torch.device) -> Path:
    """Adds to the user's table for this GPU and these versions; returns its file."""
    path = table_path(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = (_read(path) if path.exists() else {}) | table
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(whole, indent=1, sort_keys=True), encoding="utf-8")
    draft.replace(path)  # another process reads the old table or the new one
    return path


def load_table(device: torch.device) -> dict[str, Config]:
    """What was measured on such a GPU with these versions, by `Layer.key`; empty where nothing was."""
    rows = _read(table_path(device))
    try:
        return {key: Config(**row["config"]) for key, row in rows.items()}
    except (TypeError, KeyError, ValueError, AttributeError):  # written by another version of this
        return {}


def table_path(device: torch.device) -> Path:
    """The user's table for this GPU, torch and Triton."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = (name, f"torch {torch.__version__}", f"triton {_triton_version()}")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    plain = "-".join(parts).replace(" ", "-").replace("/", "-")
    return Path(cache) / "paceline" / f"linear-{plain}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _triton_version() -> str:
    import triton

    return str(getattr(triton, "__version__", None) or version("triton"))


def _l2_bytes(device: torch.device) -> int:
    """Of the GPU's L2 cache; a small number on CPUs, where times mean nothing."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e6

"""A decode step through a few layers of a model, timed with any way to run each of their products.

Layers are timed together since a kernel that is launched early shares the GPU with the one in front: what is fastest
alone need not be fastest there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig

from device_time import median_us
from layer_ways import layers_of
from paceline.server.runner import triton_early, triton_linear
from paceline.server.runner.dummy import build, shape_config
from paceline.server.runner.fused_model import SMALL, FusedModel, fits
from paceline.server.runner.graphs import Graphs
from paceline.server.runner.linear_configs import Config, Layer, pick
from paceline.server.runner.scaled import FP8, Scaled, Weight
from paceline.server.runner.triton_attention import PagedStep
from paceline.server.runner.triton_rows import Norm

CONTEXT, PAGE = 160, 16
REPEATS, REPLAYS = 5, 20
# Fewer layers than the model has, where those are more than the L2 cache many times over.
MOST_LAYERS = {"llama-8b": 6}
# Wider models have a small vocabulary, so that the layers are most of the step.
WIDE, SMALL_VOCABULARY = 1024, 4096
# Of the largest logit: roundings that fall another way grow from layer to layer, more so in fp8; mistakes are larger.
TOLERANCE = {2: 0.05, 1: 0.10}
SMOKE = "smoke"
_SMOKE_SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.25,  # so that a layer adds as much as there is
}


@dataclass(frozen=True, slots=True)
class Case:
    shape: str
    rows: int
    fp8: bool = False

    @classmethod
    def parse(cls, text: str) -> Case:
        """From SHAPE:ROWS or SHAPE:ROWS:fp8. ValueError for anything else."""
        shape, _, rows = text.removesuffix(":fp8").rpartition(":")
        if not shape or not rows.isdecimal() or not 1 <= int(rows) <= SMALL:
            raise ValueError(f"{text!r} is not SHAPE:ROWS or SHAPE:ROWS:fp8 with 1 to {SMALL} rows")
        return cls(shape, int(rows), text.endswith(":fp8"))

    def __str__(self) -> str:
        return f"{self.shape}:{self.rows}{':fp8' if self.fp8 else ''}"

    @property
    def element_bytes(self) -> int:
        return 1 if self.fp8 else 2

    @property
    def layers(self) -> dict[str, Layer]:
        return layers_of(self.config(), self.element_bytes)

    def config(self) -> PreTrainedConfig:
        """Of the model that is timed. SetupError for a shape that is not known."""
        if self.shape == SMOKE:
            return LlamaConfig(**_SMOKE_SIZES)
        config: Any = shape_config(self.shape)
        config.num_hidden_layers = MOST_LAYERS.get(self.shape, config.num_hidden_layers)
        if config.hidden_size > WIDE:
            config.vocab_size = SMALL_VOCABULARY
        return config  # type: ignore[no-any-return]


class Chain:
    """The layers of a case with random weights, and what a step of its rows reads and writes.

    The first measurement is the reference: the logits of all others are held against its own.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        self.layers = case.layers
        self._device = device
        self._tolerance = TOLERANCE[case.element_bytes]
        self._expected: Tensor | None = None
        config: Any = case.config()
        # The interpreter's tensor cores do not know bfloat16.
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = build(config, device, dtype, None).eval()
        if not fits(model):
            raise ValueError(f"{case.shape} has no layers of the engine's own")
        self._fused = FusedModel(model, 1024, fp8=device if case.fp8 else None)
        self._fused._small = SMALL  # on CPUs too, where it would be torch that multiplies
        stream: Any = torch.cuda.Stream
        self._stream = stream(device) if device.type == "cuda" else None
        own: Any = {"dtype": dtype, "device": device}
        pages = -(-CONTEXT // PAGE)
        kv_heads, dim = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        dim = getattr(config, "head_dim", None) or dim
        cache = (2, case.rows * pages + 1, kv_heads, PAGE, dim)
        self._fused.bind([torch.randn(cache, **own) for _ in range(config.num_hidden_layers)])
        self._ids = torch.randint(0, config.vocab_size, (case.rows,), device=device)
        self._line = _decode_step(case.rows, pages, device)
        self._places = torch.arange(case.rows, device=device)
        self._logits = torch.empty(case.rows, config.vocab_size, **own)
        if self._stream is not None:
            torch.cuda.synchronize(device)  # what another stream has filled

    def measure(self, ways: Mapping[str, Config], *, early: bool = True) -> tuple[float, float]:
        """Microseconds of a step with these ways, and how far the logits are from the reference's.

        Args:
            ways: by layer.
            early: whether kernels are launched early, where the GPU can.

        Raises:
            ArithmeticError: the logits are farther away than rounding takes them.
            Exception: whatever keeps a way from being compiled or launched.
        """
        chosen = {self.layers[name]: config for name, config in ways.items()}
        with ExitStack() as inside:
            inside.enter_context(torch.inference_mode())
            inside.enter_context(torch.cuda.stream(self._stream))
            inside.enter_context(_chosen(chosen))
            inside.enter_context(_launched(early))
            self._logits.fill_(float("nan"))
            us = self._microseconds()
            return us, self._compare()

    def _step(self) -> None:
        self._fused.compute(self._ids, self._line, self._places, self._logits)

    def _compare(self) -> float:
        found = self._logits.to(torch.float32, copy=True)
        if self._expected is None:
            self._expected = found
        worst = (found - self._expected).abs().max() / self._expected.abs().max()
        if not worst <= self._tolerance:  # nor where it is no number
            raise ArithmeticError(f"logits are off by {float(worst):.3f} of the largest one")
        return float(worst)

    def _microseconds(self) -> float:
        if self._stream is None:  # in the interpreter, where a time says nothing
            started = time.perf_counter()
            self._step()
            return (time.perf_counter() - started) * 1e6
        replay = partial(Graphs(enabled=True).run, "step", self._step)
        for _ in range(2):  # the first compiles and records
            replay()
        return median_us(replay, REPEATS, REPLAYS)


def compile_one(layer: Layer, m: int, config: Config) -> None:
    """In a process of its own: leaves the kernel in Triton's cache on disk."""
    own: Any = {"dtype": torch.bfloat16, "device": "meta"}
    x, out = torch.empty(m, layer.k, **own), torch.empty(m, layer.n, **own)
    plain = torch.empty(layer.weight_rows, layer.k, **own)
    weight: Weight = plain
    if layer.element_bytes == 1:
        scale = torch.empty(layer.weight_rows, dtype=torch.float32, device="meta")
        weight = Scaled(plain.to(FP8), scale)
    parts: dict[str, Any] = {}
    if layer.element_bytes == 1 and config.kind == "dot":  # rows come rounded
        x = x.to(FP8)
        parts["row_scale"] = torch.empty(m, 1, dtype=torch.float32, device="meta")
    elif layer.has_norm and config.fuse_norm:
        parts["norm"] = Norm(torch.empty(layer.k, **own), 1e-5, 0.0)
    if layer.op == "norm_gated":
        parts["activation"] = "silu_mul"
    if layer.op == "linear_residual":
        parts["residual"] = out
    triton_linear.plan(x, weight, None, out, config, **parts).compile()


@contextmanager
def _chosen(ways: Mapping[Layer, Config]) -> Iterator[None]:
    """Within, these layers run in these ways, and all others as the kernels choose."""

    def choose(layer: Layer, m: int) -> Config:
        return ways.get(layer) or pick(layer, m)

    with mock.patch.object(triton_linear, "pick", choose):
        yield


@contextmanager
def _launched(early: bool) -> Iterator[None]:
    """Within, kernels are launched early where the GPU can and `early` says so."""
    with mock.patch.object(triton_early, "_allowed", early and triton_early._allowed):
        yield


def _decode_step(rows: int, pages: int, device: torch.device) -> PagedStep:
    """Each row has its own pages, all full but for the place of the token that is computed."""
    own: Any = {"dtype": torch.int32, "device": device}
    last = CONTEXT - 1
    return PagedStep(
        positions=torch.full((rows,), last, **own),
        token_slots=torch.arange(rows, **own),
        blocks=torch.tensor([[row, row, -1, last] for row in range(rows)], **own),
        page_table=torch.arange(1, rows * pages + 1, **own).view(rows, pages),
        block_q=1,
        splits=1,
    )

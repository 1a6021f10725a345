"""How a linear layer of few rows is cut into programs: the choices, a first guess, and what is worth measuring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Op = Literal["linear", "linear_residual", "norm_linear", "norm_gated"]

ROW_BUCKETS = (1, 16, 32, 64)
MULTIPROCESSORS = 132  # of an H100; the guess is for that size of GPU
SMALL_BYTES = 16 << 20  # a layer whose weights are read in the time of a few launches
LARGE_BYTES = 32 << 20  # weights that would push everything else out of the L2 cache
_HUGE_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer with what is fused to it. `n` counts outputs: the weights of `norm_gated` are `[2n, k]`."""

    op: Op
    n: int
    k: int
    element_bytes: int = 2  # of a weight; 1 is fp8

    @property
    def weight_rows(self) -> int:
        return 2 * self.n if self.op == "norm_gated" else self.n

    @property
    def weight_bytes(self) -> int:
        return self.weight_rows * self.k * self.element_bytes

    @property
    def has_norm(self) -> bool:
        return self.op in ("norm_linear", "norm_gated")

    def key(self, m: int) -> str:
        """The layer's name in a table, for `m` rows."""
        fp8 = ":fp8" if self.element_bytes == 1 else ""
        return f"{self.op}:{self.n}x{self.k}{fp8}:m{row_bucket(m)}"


@dataclass(frozen=True, slots=True)
class Config:
    """One way to run a layer.

    Attributes:
        kind: "dot" multiplies tiles on tensor cores, "vec" row by row without them, "torch" is `F.linear`.
        block_n, block_k: outputs of a program, and how much of K it holds at a time; powers of two.
        split_k: programs that share one tile's K.
        num_stages: blocks in flight.
        fuse_norm: the norm is computed by each program anew, else by a small kernel before.
    """

    kind: Literal["dot", "vec", "torch"] = "dot"
    block_n: int = 16
    block_k: int = 256
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 4
    fuse_norm: bool = True

    def __post_init__(self) -> None:
        sizes = (self.block_n, self.block_k, self.num_warps)
        if any(size < 1 or size & (size - 1) for size in sizes):
            raise ValueError(f"block sizes and warps must be powers of two: {self}")
        if self.split_k < 1 or self.num_stages < 1 or self.block_k < 16:
            raise ValueError(f"too small: {self}")
        if self.kind == "dot" and self.block_n < 16:
            raise ValueError(f"tensor cores need 16 columns: {self}")


TORCH = Config(kind="torch")

# (weights are small, bucket) -> what is worth measuring, best guess first.
CONFIGS: dict[tuple[bool, int], tuple[Config, ...]] = {
    (True, 1): (
        Config("vec", 4, 1024, num_warps=4, num_stages=2),
        Config("vec", 8, 512, num_warps=4, num_stages=3),
        Config("vec", 2, 1024, num_warps=2, num_stages=2),
        Config("dot", 16, 512, num_warps=4, num_stages=3),
    ),
    (True, 16): (
        Config("dot", 16, 512, num_warps=8, num_stages=3),
        Config("dot", 16, 256, num_warps=2, num_stages=4),
        Config("dot", 32, 256, num_warps=4, num_stages=4),
        Config("dot", 16, 256, split_k=2, num_warps=4, num_stages=3),
    ),
    (True, 32): (
        Config("dot", 16, 256, num_warps=4, num_stages=4),
        Config("dot", 32, 128, num_warps=4, num_stages=4),
        Config("dot", 16, 256, num_warps=8, num_stages=3, fuse_norm=False),
    ),
    (True, 64): (
        Config("dot", 16, 128, num_warps=4, num_stages=4),
        Config("dot", 32, 128, num_warps=4, num_stages=4),
        Config("dot", 32, 128, num_warps=4, num_stages=4, fuse_norm=False),
    ),
    (False, 1): (
        Config("vec", 4, 1024, num_warps=4, num_stages=3),
        Config("vec", 8, 512, num_warps=4, num_stages=4),
        Config("vec", 2, 1024, num_warps=2, num_stages=4),
        Config("dot", 16, 256, num_warps=4, num_stages=5),
    ),
    (False, 16): (
        Config("dot", 16, 256, num_warps=4, num_stages=5, fuse_norm=False),
        Config("dot", 32, 256, num_warps=4, num_stages=4, fuse_norm=False),
        Config("dot", 64, 128, num_warps=4, num_stages=4, fuse_norm=False),
        Config("dot", 32, 128, num_warps=4, num_stages=6, fuse_norm=False),
        Config("dot", 16, 256, split_k=2, num_warps=4, num_stages=4, fuse_norm=False),
    ),
    (False, 32): (
        Config("dot", 32, 128, num_warps=4, num_stages=5, fuse_norm=False),
        Config("dot", 64, 128, num_warps=4, num_stages=4, fuse_norm=False),
        Config("dot", 32, 256, num_warps=4, num_stages=3, split_k=2, fuse_norm=False),
    ),
    (False, 64): (
        Config("dot", 32, 128, num_warps=4, num_stages=4, fuse_norm=False),
        Config("dot", 64, 128, num_warps=4, num_stages=4, fuse_norm=False),
        Config("dot", 64, 128, num_warps=4, num_stages=4, split_k=2, fuse_norm=False),
    ),
}


def row_bucket(m: int) -> int:
    """The rows that a layer is compiled for: the next of 1, 16, 32, 64; beyond, tiles of 64."""
    return next((bucket for bucket in ROW_BUCKETS if m <= bucket), ROW_BUCKETS[-1])


def block_m(m: int, config: Config) -> int:
    return 1 if config.kind == "vec" else max(16, row_bucket(m))


def candidates(layer: Layer, m: int) -> list[Config]:
    """What is worth measuring for `m` rows, the best guess first and torch last."""
    small = layer.weight_bytes < SMALL_BYTES
    found: dict[Config, None] = {}
    for config in CONFIGS[small, row_bucket(m)]:
        if fitted := _fit(config, layer):
            found[fitted] = None
    return [*found, TORCH]


def pick(layer: Layer, m: int) -> Config:
    """The best guess for `m` rows: what `benchmarks/linear.py` found fastest on an H100, by kind of layer."""
    bucket, small = row_bucket(m), layer.weight_bytes < SMALL_BYTES
    if bucket == 1:
        return candidates(layer, m)[0]
    if layer.element_bytes == 1:
        return _pick_fp8(layer, bucket)
    if layer.op in ("norm_linear", "linear"):
        return _pick_plain(layer, bucket, small)
    if layer.op == "norm_gated":
        if bucket == 16 and not small:
            return TORCH
        if bucket == 16:
            return Config("dot", 16, 256, num_warps=4, num_stages=4)
        width = 16 if small else 32
        return Config("dot", width, 128, num_warps=4, num_stages=4, fuse_norm=False)
    if bucket == 16:
        return Config("dot", 16, 256, 1, 2, 4) if small else Config("dot", 32, 256, 1, 4, 4)
    if not small and layer.k > 3 * layer.n:
        return Config("dot", 64, 128, split_k=2, num_warps=4, num_stages=4)
    return Config("dot", 16 if small else 32, 128, num_warps=4, num_stages=4)


def _pick_fp8(layer: Layer, bucket: int) -> Config:
    """Our own kernel for few rows, as `benchmarks/linear.py --fp8` found it fastest on an H200."""
    if bucket == 16:
        wide = layer.op != "norm_gated"
        return Config("dot", 32, 256 if wide else 128, num_warps=4, num_stages=4)
    if bucket == 32 and layer.op != "norm_gated":
        return Config("dot", 32, 256, split_k=2, num_warps=4, num_stages=3)
    return TORCH


def _pick_plain(layer: Layer, bucket: int, small: bool) -> Config:
    """cuBLAS, but where there is little to multiply or very much to read."""
    if bucket == 16 and small:
        return Config("dot", 16, 512, num_warps=8, num_stages=3)
    if layer.weight_bytes >= _HUGE_BYTES:
        block_k = 256 if bucket == 16 else 128
        fuse = not layer.has_norm
        return Config("dot", 32, block_k, num_warps=4, num_stages=4, fuse_norm=fuse)
    return TORCH


def _fit(config: Config, layer: Layer) -> Config | None:
    """The config as it makes sense for a layer, if it does."""
    if layer.op == "norm_gated" and config.kind == "dot":  # a program reads two tiles of weights
        config = replace(config, block_n=max(16, config.block_n // 2))
    programs = -(-layer.n // config.block_n)
    if config.split_k > 1:
        if layer.op == "norm_gated" or programs >= 2 * MULTIPROCESSORS:
            return None  # enough programs without
        if layer.k < 2 * config.split_k * config.block_k:
            return None
    elif config.kind == "dot" and config.block_n > 32 and programs < MULTIPROCESSORS // 2:
        return None
    if not layer.has_norm:
        config = replace(config, fuse_norm=True)
    return config
